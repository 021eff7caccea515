//! A person's shell: bash with the programs that a person has on the PATH, a home, and a kubeconfig.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::bed::Bed;
use crate::operator;

/// bash with that kubeconfig, told its namespace. curl tells of an error by its exit code, as its own option has it.
pub fn bash(bed: &Bed, kubeconfig: &Path, namespace: &str) -> anyhow::Result<Command> {
    let home = home(bed)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command
        .env("PATH", format!("{}:{path}", home.join("bin").display()))
        .env("HOME", &home)
        .env("CURL_HOME", &home)
        .env("KUBECONFIG", kubeconfig)
        .env("NAMESPACE", namespace)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

/// A home with the programs in it, made once.
fn home(bed: &Bed) -> anyhow::Result<PathBuf> {
    let home = bed.dir().join("home");
    let bin = home.join("bin");
    if !home.join(".curlrc").exists() {
        std::fs::create_dir_all(&bin)?;
        let aether = operator::built("aether")?;
        let mut programs = vec![
            ("aether", aether.clone()),
            ("kubectl-aether", aether),
            ("aether-operator", operator::built("aether-operator")?),
            ("kubectl", bed.binaries().kubectl.clone()),
        ];
        programs.extend(bed.binaries().helm().map(|helm| ("helm", helm)));
        for (name, program) in programs {
            // Made at the same time by another test, it is the same.
            let _ = std::os::unix::fs::symlink(program, bin.join(name));
        }
        std::fs::write(home.join(".curlrc"), "silent\nshow-error\nfail-with-body\n")?;
    }
    Ok(home)
}
