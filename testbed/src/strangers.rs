//! Clients of clouds that are not ours, to prove that the fake cloud is like the real ones.
//!
//! The Python clients and the Go client are fetched in the versions that `strangers/` pins, and kept in the user's cache.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::binaries::{Part, Progress, check_go, ensure, fingerprint, go, run};

const REQUIREMENTS: &str = include_str!("../strangers/requirements.txt");
const VULTR: [(&str, &str); 3] = [
    ("go.mod", include_str!("../strangers/vultr/go.mod")),
    ("go.sum", include_str!("../strangers/vultr/go.sum")),
    ("main.go", include_str!("../strangers/vultr/main.go")),
];
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/strangers");

/// Where the clients are.
#[derive(Clone, Debug)]
pub struct Strangers {
    python: PathBuf,
    vultr: PathBuf,
}

impl Strangers {
    /// Makes sure that the clients are in the cache. The first time this takes a minute, and a network.
    pub fn ensure() -> anyhow::Result<Self> {
        let version = python_version()?;
        let vultr = VULTR.map(|(_, content)| content).concat();
        let [python, vultr] = ensure([
            Part { key: format!("cloud-clients-python{version}-{:016x}", fingerprint(REQUIREMENTS.as_bytes())), make: install_python },
            Part { key: format!("cloud-clients-go-{:016x}", fingerprint(vultr.as_bytes())), make: build_vultr },
        ])?;
        Ok(Self { python: python.join("bin/python"), vultr: vultr.join("vultr") })
    }

    /// `strangers/NAME.py`, told the URL of a fake cloud.
    pub fn script(&self, name: &str, url: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(Path::new(SCRIPTS).join(format!("{name}.py"))).arg(url).env("PYTHONDONTWRITEBYTECODE", "1");
        apart(&mut command);
        command
    }

    /// moto, a stranger's idea of EC2, and the URL at which it will answer.
    pub fn moto(&self) -> anyhow::Result<(Command, String)> {
        // Free now, and most likely still free when moto takes it.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new(&self.python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]).env("PYTHONDONTWRITEBYTECODE", "1");
        apart(&mut command);
        Ok((command, format!("http://127.0.0.1:{port}")))
    }

    /// The Go client for Vultr, told the URL of a fake cloud.
    pub fn vultr(&self, url: &str) -> Command {
        let mut command = Command::new(&self.vultr);
        command.arg(url);
        apart(&mut command);
        command
    }
}

/// Whatever account the person at the machine has, and whatever proxy, these clients know nothing of it.
fn apart(command: &mut Command) {
    let is_theirs = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["aws_", "google_", "gcloud_", "hcloud_", "digitalocean_", "vultr_", "python"].iter().any(|prefix| name.starts_with(prefix))
            || name.ends_with("_proxy")
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_theirs(&name.to_string_lossy())) {
        if name != "PYTHONDONTWRITEBYTECODE" {
            command.env_remove(name);
        }
    }
    // Not found is not an answer that can hang.
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_CONFIG_FILE", "/dev/null").env("NO_GCE_CHECK", "true");
}

/// `3.11`: packages are installed for one minor version.
fn python_version() -> anyhow::Result<String> {
    let mut python = Command::new("python3");
    python.args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]);
    Ok(run(&mut python).context("python3 is needed; install it and run again")?.trim().to_owned())
}

fn install_python(work: &Path, out: &Path) -> anyhow::Result<()> {
    let _progress = Progress::start("fetching Python clients of clouds".to_owned());
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(out);
    run(&mut venv).context("python3 -m venv is needed (in Debian: python3-venv); install it and run again")?;
    // `python -m pip`, because the folder moves afterwards and the path in the script `pip` would not.
    let mut install = Command::new(out.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--requirement"]);
    run(install.arg(requirements)).context("cannot fetch the Python clients")?;
    Ok(())
}

fn build_vultr(work: &Path, out: &Path) -> anyhow::Result<()> {
    check_go()?;
    let _progress = Progress::start("building a Go client of a cloud".to_owned());
    for (name, content) in VULTR {
        fs::write(work.join(name), content)?;
    }
    run(go(work).args(["build", "-o"]).arg(out.join("vultr")).arg(".")).context("cannot build the Go client")?;
    if !out.join("vultr").is_file() {
        bail!("go built nothing");
    }
    Ok(())
}
