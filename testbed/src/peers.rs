//! The definitions of other tools' kinds, so that manifests in the docs are checked by what these tools themselves install.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::binaries::{Part, Progress, check_go, ensure as ensure_parts, fingerprint, go, run};

/// Module, version, the hash that Go gives to its content, and the file or folder with definitions.
const PEERS: [[&str; 4]; 5] = [
    ["github.com/argoproj/argo-rollouts", "v1.10.1", "h1:6oyVPGiHHxu3ixkT6mngemh88HLPDoTX1IwO6KNR1Y4=", "manifests/crds"],
    ["github.com/fluxcd/flagger", "v1.36.1", "h1:X2PumtNwZz9YSGaOtZLFm2zAKLgHhFkbNv8beg7ifyc=", "artifacts/flagger/crd.yaml"],
    ["github.com/argoproj/argo-cd/v3", "v3.5.6", "h1:twzdsPiPufKLRtEqD1Jg3FqtuZmSHLTIxs7t6fSkjlk=", "manifests/crds/application-crd.yaml"],
    ["github.com/fluxcd/kustomize-controller", "v1.9.0", "h1:WfM+bQUGUGW2qyrrTgh2bIVSZSPmc3JC7234K8NiTWQ=", "config/crd/bases"],
    ["github.com/fluxcd/source-controller", "v1.8.0", "h1:h549HUCBEG4jGs3uFYfb2+/XhJjcz+pvB8VG4mdSYDw=", "config/crd/bases"],
];

/// What Go says of a module that it has fetched.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Download {
    dir: PathBuf,
    sum: String,
}

/// A folder with the definitions. The first time this takes a minute, a network, and 90 MB that are not kept.
pub fn ensure() -> anyhow::Result<PathBuf> {
    let pins = PEERS.concat().concat();
    let [folder] = ensure_parts([Part { key: format!("peers-{:016x}", fingerprint(pins.as_bytes())), make: fetch }])?;
    Ok(folder)
}

fn fetch(work: &Path, out: &Path) -> anyhow::Result<()> {
    check_go()?;
    let _progress = Progress::start("fetching the definitions of Argo Rollouts, Flagger, Argo CD and Flux".to_owned());
    fs::write(work.join("go.mod"), "module aether.dev/testbed/peers\n\ngo 1.26.0\n")?;
    for [module, version, sum, path] in PEERS {
        let mut download = go(work);
        // A cache of its own, which goes with the work folder: of all these sources a few files are wanted.
        download.env("GOMODCACHE", work.join("modules")).env("GOFLAGS", "-mod=mod -modcacherw");
        let said = run(download.args(["mod", "download", "-json", &format!("{module}@{version}")])).context(module)?;
        let Download { dir, sum: found } = serde_json::from_str(&said)?;
        ensure!(found == sum, "{module} {version} is not what it was: {found} and not {sum}");
        let path = dir.join(path);
        let files =
            if path.is_dir() { fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()? } else { vec![path] };
        for file in files.iter().filter(|file| !file.ends_with("kustomization.yaml")) {
            let name = file.file_name().context("no name")?.to_string_lossy();
            fs::copy(file, out.join(format!("{}-{name}", module.replace('/', "-"))))?;
        }
    }
    Ok(())
}
