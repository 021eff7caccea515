//! The operator's image, without a container runtime: what the Dockerfile's last stage copies, laid out in a folder as the image
//! lays it out, and nothing else of this machine. A program that needs more than the image has fails here as it would there.
//!
//! The folder becomes the root of a mount namespace: read-only, with what a pod mounts into it. The process gets exactly the
//! environment that it is given, the user that it is to be, and no capability.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

use crate::operator::{built, repository};

/// Name of the image, without registry, tag and digest.
pub const NAME: &str = "aether-operator";
/// A folder with other builds of the programs than those beside this one.
const BINARIES: &str = "AETHER_IMAGE_BINARIES";
/// What the last stage of the Dockerfile begins with.
const BASE: &str = "gcr.io/distroless/cc-debian12:nonroot";
/// Shared libraries of that base which programs of Rust ask for: the C library's and GCC's. (It has OpenSSL's as well, which
/// the next one may not have.)
const LIBRARIES: [&str; 9] = [
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libresolv.so.2",
];
/// Small files of that base that a program may read.
const FILES: [(&str, &str); 3] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"),
    ("/etc/group", "root:x:0:\nnonroot:x:65532:\n"),
    ("/etc/nsswitch.conf", "hosts: files dns\n"),
];
/// Where the base has the authorities that clouds are trusted by, and this machine as well if it is a Debian.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What every container has, whatever its image.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];

/// Turns a folder into the root of the rest of its arguments: triples of how, what and where is mounted, and after `--` the
/// command for `env -i`. Nothing of it is to be seen outside of its mount namespace. Remounting is a step of its own, which
/// keeps the other flags of a mount: who may not take them away may not leave them out either.
const ENTER: &str = r#"
set -e
root=$1 name=$2
shift 2
mount --bind "$root" "$root"
while [ "$1" != -- ]; do
  mount --bind "$2" "$root$3"
  [ "$1" = rw ] || mount -o remount,bind,ro "$root$3"
  shift 3
done
shift
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
echo "$name" >/proc/sys/kernel/hostname
exec env -i "$@"
"#;

/// Whether a pod's container of this image runs the operator's programs.
pub fn is_ours(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or(image);
    let name = name.rsplit('/').next().unwrap_or(name);
    name.split(':').next() == Some(NAME)
}

/// The image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Programs: from where, and where to.
    programs: Vec<(PathBuf, String)>,
    /// Shared libraries that they need; they are at the same place in the image.
    libraries: Vec<PathBuf>,
    /// Who runs unless the pod says.
    pub user: u32,
    /// The user's group.
    pub group: u32,
    /// What runs unless the pod says.
    pub entrypoint: Vec<String>,
    /// Its arguments unless the pod says.
    pub command: Vec<String>,
}

impl Image {
    /// The image of the repository's Dockerfile with the programs that are built, or those of the folder that
    /// `AETHER_IMAGE_BINARIES` names.
    pub fn built() -> anyhow::Result<Self> {
        let folder = std::env::var_os(BINARIES).map(PathBuf::from);
        let mut image = Self::read(&fs::read_to_string(repository().join("Dockerfile"))?)?;
        for (program, _) in &mut image.programs {
            let name = program.file_name().and_then(|name| name.to_str()).context("the Dockerfile copies something without a name")?;
            *program = match &folder {
                Some(folder) => {
                    fs::canonicalize(folder.join(name)).with_context(|| format!("{BINARIES}: no {name} in {}", folder.display()))?
                }
                None => built(name)?,
            };
        }
        let mut libraries = Vec::new();
        for (program, _) in &image.programs {
            libraries.extend(libraries_of(program)?);
        }
        libraries.sort();
        libraries.dedup();
        Ok(Self { libraries, ..image })
    }

    /// Reads the last stage of a Dockerfile; the programs are those of the stage before.
    fn read(dockerfile: &str) -> anyhow::Result<Self> {
        let text = dockerfile.replace("\\\n", " ");
        let lines: Vec<(&str, &str)> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .filter_map(|line| line.trim().split_once(char::is_whitespace).map(|(word, rest)| (word, rest.trim())))
            .collect();
        let last = lines.rsplit(|(word, _)| *word == "FROM").next().unwrap_or_default();
        let base = lines.iter().rfind(|(word, _)| *word == "FROM").map(|(_, base)| *base);
        ensure!(base == Some(BASE), "the last stage of the Dockerfile is made from {base:?}; this only knows what {BASE} has");
        let mut image = Self::default();
        for (word, rest) in last {
            match *word {
                "COPY" => {
                    let words: Vec<&str> = rest.split_whitespace().collect();
                    let ["--from=build", from, to] = words.as_slice() else {
                        bail!("the Dockerfile has COPY {rest}; write --from=build, one file and its place")
                    };
                    ensure!(to.starts_with('/') && !to.ends_with('/'), "the Dockerfile has COPY {rest}; write the whole path of the file");
                    image.programs.push((PathBuf::from(from), (*to).to_owned()));
                }
                "USER" => {
                    let ids = rest.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
                    (image.user, image.group) = ids.with_context(|| format!("the Dockerfile has USER {rest}; write two numbers"))?;
                }
                "ENTRYPOINT" => image.entrypoint = serde_json::from_str(rest)?,
                "CMD" => image.command = serde_json::from_str(rest)?,
                "ARG" | "EXPOSE" | "LABEL" => {}
                "WORKDIR" if *rest == "/" => {}
                other => bail!("the Dockerfile's last stage has {other} {rest}, which this does not know how to do"),
            }
        }
        Ok(image)
    }

    /// Lays the image out in an empty folder.
    pub fn lay_out(&self, folder: PathBuf) -> anyhow::Result<Root> {
        fs::create_dir(&folder)?;
        let mut root = Root { folder, mounts: Vec::new() };
        for (program, to) in &self.programs {
            root.mount(Mode::ReadOnly, program, to)?;
        }
        for library in &self.libraries {
            let to = library.to_str().context("a library's path is not UTF-8")?;
            root.mount(Mode::ReadOnly, library, to)?;
        }
        for (path, text) in FILES {
            root.write(path, text.as_bytes())?;
        }
        root.write(AUTHORITIES, &fs::read(AUTHORITIES).unwrap_or_default())?;
        for device in DEVICES {
            root.mount(Mode::Writable, Path::new(device), device)?;
        }
        root.make("/proc")?;
        Ok(root)
    }
}

/// The shared libraries that a program needs, if the image has them all.
fn libraries_of(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Program::new("ldd").arg(program).output().context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if String::from_utf8_lossy(&output.stderr).contains("not a dynamic executable") || text.contains("statically linked") {
        return Ok(Vec::new());
    }
    ensure!(output.status.success(), "ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    libraries_in(&text).with_context(|| format!("{} does not run in the image", program.display()))
}

/// Reads what ldd prints: `name => path (address)`, or only `path (address)`. What the kernel gives has no path.
fn libraries_in(text: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in text.lines() {
        let (wanted, found) = line.trim().split_once(" => ").unwrap_or((line.trim(), line.trim()));
        let path = Path::new(found.split_whitespace().next().unwrap_or_default());
        let name = Path::new(wanted.split_whitespace().next().unwrap_or_default()).file_name().and_then(|name| name.to_str());
        match name {
            Some(name) if LIBRARIES.contains(&name) && path.is_absolute() => libraries.push(path.to_owned()),
            Some(name) if name.starts_with("linux-vdso") || name.starts_with("linux-gate") => {}
            _ => bail!("it needs {wanted}, and {BASE} has no such library"),
        }
    }
    Ok(libraries)
}

/// How something is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To be read only.
    ReadOnly,
    /// To be written as well.
    Writable,
}

/// A root folder, and what is mounted into it when somebody enters.
#[derive(Debug)]
pub struct Root {
    folder: PathBuf,
    mounts: Vec<(Mode, PathBuf, String)>,
}

impl Root {
    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn place(&self, path: &str) -> anyhow::Result<PathBuf> {
        let inside = path.strip_prefix('/').filter(|path| path.split('/').all(|part| !matches!(part, "" | "." | "..")));
        Ok(self.folder.join(inside.with_context(|| format!("{path:?} is no absolute path without detours"))?))
    }

    /// Makes an empty folder, with all above it.
    pub fn make(&self, path: &str) -> anyhow::Result<()> {
        Ok(fs::create_dir_all(self.place(path)?)?)
    }

    /// Writes a file that all may read, with the folders above it.
    pub fn write(&self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        write(&self.place(path)?, content)
    }

    /// Mounts a file or folder of this machine; files and folders are made to mount it on.
    pub fn mount(&mut self, mode: Mode, from: &Path, to: &str) -> anyhow::Result<()> {
        let from = fs::canonicalize(from).with_context(|| format!("there is no {}", from.display()))?;
        if from.is_dir() {
            self.make(to)?;
        } else {
            self.write(to, b"")?;
        }
        self.mounts.push((mode, from, to.to_owned()));
        Ok(())
    }

    /// The command that runs a program in it. Its process is the program's process in the end: the id stays.
    pub fn command(&self, host: &str, (user, group): (u32, u32), environment: &[(String, String)], program: &[String]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "sh", "-c", ENTER, "sh"]).arg(&self.folder).arg(host);
        for (mode, from, to) in &self.mounts {
            command.arg(if *mode == Mode::Writable { "rw" } else { "ro" }).arg(from).arg(to);
        }
        command.arg("--").args(environment.iter().map(|(name, value)| format!("{name}={value}")));
        // Where the bed's own user is the only one there is, the same user goes by the other number in a user namespace of
        // its own: it sees what a pod sees, and has no rights but those of who owns the files, which are all read-only.
        let become_user = if has_one_user() {
            vec!["--user".to_owned(), format!("--map-user={user}"), format!("--map-group={group}")]
        } else {
            vec![format!("--setuid={user}"), format!("--setgid={group}")]
        };
        command.arg("unshare").args(become_user).arg("--root").arg(&self.folder).arg("--").args(program);
        command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        command
    }
}

fn has_one_user() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().count() == 1 && map.split_whitespace().nth(2) == Some("1")
}

/// Writes a file that all may read, with the folders above it.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::create_dir_all(path.parent().context("a file has a folder")?)?;
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o444))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dockerfile() -> String {
        fs::read_to_string(repository().join("Dockerfile")).unwrap()
    }

    #[test]
    fn the_dockerfile_is_what_is_laid_out() {
        let image = Image::read(&dockerfile()).unwrap();
        let programs = ["aether-operator", "aether"].map(|name| (PathBuf::from(format!("/out/{name}")), format!("/{name}")));
        assert_eq!(image.programs, programs);
        assert_eq!((image.user, image.group), (65532, 65532));
        assert_eq!((image.entrypoint, image.command), (vec!["/aether-operator".to_owned()], vec!["run".to_owned()]));
    }

    #[test]
    fn what_cannot_be_laid_out_is_refused() {
        let stage = |line: &str| format!("FROM rust:1 AS build\nRUN make\nFROM {BASE}\n# no RUN\n{line}\n");
        assert!(Image::read(&stage("COPY --from=build \\\n  /out/a /a")).is_ok());
        for line in
            ["RUN true", "COPY a /a", "COPY --from=build /out/a /bin/", "USER nonroot", "ENV HOME=/", "WORKDIR /home/nonroot", "CMD run"]
        {
            assert!(Image::read(&stage(line)).is_err(), "{line}");
        }
        assert!(Image::read(&stage("").replace(BASE, "scratch")).is_err());
    }

    /// Built with a newer C library, the programs would not start.
    #[test]
    fn both_stages_are_of_one_debian() {
        let of = |name: &str| dockerfile().lines().any(|line| line.starts_with("FROM ") && line.contains(name));
        assert!(of("-bookworm AS build") && of("-debian12:"));
    }

    /// With less, cargo has no workspace to build.
    #[test]
    fn what_docker_is_given_is_the_workspace() {
        let ignored = fs::read_to_string(repository().join(".dockerignore")).unwrap();
        let given: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
        let folder = tempfile::tempdir().unwrap();
        let copied = Program::new("cp").args(["-r", "--parents"]).args(given).arg(folder.path()).current_dir(repository()).status();
        assert!(copied.unwrap().success());
        let cargo =
            Program::new(env!("CARGO")).args(["tree", "--locked", "--offline", "--workspace"]).current_dir(folder.path()).output().unwrap();
        assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    }

    #[test]
    fn a_library_that_the_image_lacks_is_named() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries_in(text).unwrap(), paths);
        for more in ["\tlibssl.so.3 => /lib/libssl.so.3 (0x4)\n", "\tlibc.so.6 => not found\n"] {
            let error = libraries_in(&format!("{text}{more}")).unwrap_err().to_string();
            assert!(error.contains(more.split_whitespace().next().unwrap()), "{error}");
        }
    }

    #[test]
    fn an_image_is_ours_by_its_name_alone() {
        for image in [
            "aether-operator",
            "aether-operator:0.1.0",
            "r.example:5000/team/aether-operator@sha256:12",
            "r.example/aether-operator:1@sha256:1",
        ] {
            assert!(is_ours(image), "{image}");
        }
        for image in ["aether", "aether-operator-next:1", "aether-operator/other:1", ""] {
            assert!(!is_ours(image), "{image}");
        }
    }

    #[test]
    fn nothing_is_put_beside_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root { folder: folder.path().join("root"), mounts: Vec::new() };
        for path in ["etc/x", "/../x", "/a//b", "/"] {
            assert!(root.write(path, b"").is_err(), "{path}");
        }
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    }
}
