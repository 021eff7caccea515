//! Programs from Debian's packages, unpacked into the user's cache and installed nowhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::binaries::{Progress, run};

/// Unpacks packages into `out`, as they would be at `/`. `what` is told if that cannot be done. Needs a Debian or Ubuntu.
pub fn unpack(packages: &[&str], what: &str, work: &Path, out: &Path) -> anyhow::Result<()> {
    let needed = || format!("{what} is needed for the tests, and apt-get and dpkg of Debian or Ubuntu to fetch it");
    let _progress = Progress::start(format!("fetching {what} from Debian's packages"));
    // Package lists of our own: the machine's may be old or missing, and only root may renew them.
    for folder in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join(folder))?;
    }
    let lists = format!("Dir::State::Lists={}", work.join("lists").display());
    let cache = format!("Dir::Cache={}", work.join("cache").display());
    for task in [vec!["update"], [&["download"], packages].concat()] {
        let mut apt = Command::new("apt-get");
        apt.args(["-q", "-o", &lists, "-o", &cache, "-o", "APT::Sandbox::User="]).args(task).current_dir(work);
        run(&mut apt).with_context(needed)?;
    }
    let files = fs::read_dir(work)?.flatten().map(|f| f.path());
    let files: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "deb")).collect();
    ensure!(files.len() == packages.len(), needed());
    for file in files {
        run(Command::new("dpkg").arg("-x").arg(&file).arg(out)).with_context(needed)?;
    }
    Ok(())
}
