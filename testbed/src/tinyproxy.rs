//! Real proxies for the VMs of the fake cloud: tinyproxy, run with the configuration that each VM was ordered with.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::task::AbortOnDropHandle;

use crate::binaries::{Part, ensure};
use crate::debian;
use crate::fake_cloud::{Change, Vm};
use crate::process::Process;

/// Debian's package with the program alone.
const PACKAGE: &str = "tinyproxy-bin";
/// Around the configuration in the script that a VM boots with.
const FRAME: [&str; 2] = ["cat >/etc/tinyproxy/tinyproxy.conf <<'AETHER_END'\n", "AETHER_END\n"];
/// What needs root, and a VM has.
const ROOTS: [&str; 2] = ["User ", "Group "];

/// Makes sure that tinyproxy is in the cache, and says where. Needs a Debian or Ubuntu and its packages the first time.
pub fn program() -> anyhow::Result<PathBuf> {
    let make = |work: &Path, out: &Path| debian::unpack(&[PACKAGE], "tinyproxy", work, out);
    let [folder] = ensure([Part { key: "debian-tinyproxy".into(), make }])?;
    Ok(folder.join("usr/bin/tinyproxy"))
}

/// The proxies of all VMs that run. Dropping it ends them.
pub struct Proxies {
    _task: AbortOnDropHandle<()>,
}

impl Proxies {
    /// Starts a proxy for each VM that the sender tells of, and ends it with the VM.
    pub fn start(program: PathBuf, dir: &Path) -> (Self, UnboundedSender<Change>) {
        let (tell, told) = unbounded_channel();
        let dir = dir.to_owned();
        (Self { _task: AbortOnDropHandle::new(tokio::spawn(keep(program, dir, told))) }, tell)
    }
}

async fn keep(program: PathBuf, dir: PathBuf, mut told: UnboundedReceiver<Change>) {
    let mut running: BTreeMap<u64, Process> = BTreeMap::new();
    while let Some(change) = told.recv().await {
        match change {
            Change::Booted(vm) => match serve(&program, &dir, &vm) {
                Ok(process) => drop(running.insert(vm.id, process)),
                Err(error) => eprintln!("VM {} runs no proxy: {error:#}", vm.id),
            },
            Change::Died(vm) => drop(running.remove(&vm.id)),
        }
    }
}

fn serve(program: &Path, dir: &Path, vm: &Vm) -> anyhow::Result<Process> {
    let conf = configuration(&vm.order.user_data, vm.address).context("it was ordered with no configuration of tinyproxy")?;
    let file = dir.join(format!("tinyproxy-{}.conf", vm.id));
    fs::write(&file, conf)?;
    let mut command = tokio::process::Command::new(program);
    command.arg("-d").arg("-c").arg(&file);
    Process::spawn(dir, &format!("tinyproxy-{}", vm.id), command)
}

/// What the script would write, for one address of this machine and without what needs root.
fn configuration(script: &str, address: IpAddr) -> Option<String> {
    let [begin, end] = FRAME;
    let (_, rest) = script.split_once(begin)?;
    let (conf, _) = rest.split_once(end)?;
    let lines = conf.lines().filter(|line| !ROOTS.iter().any(|r| line.starts_with(r)));
    Some(std::iter::once(format!("Listen {address}")).chain(lines.map(str::to_owned)).map(|line| line + "\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_the_scripts_own() {
        let script = "set -eu\ncat >/etc/tinyproxy/tinyproxy.conf <<'AETHER_END'\nUser tinyproxy\nPort 8899\nAETHER_END\nrest\n";
        assert_eq!(configuration(script, "10.0.0.1".parse().unwrap()).unwrap(), "Listen 10.0.0.1\nPort 8899\n");
        assert_eq!(configuration("#!/bin/sh\n", "10.0.0.1".parse().unwrap()), None);
    }
}
