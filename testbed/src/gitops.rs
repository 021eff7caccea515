//! What GitOps tools make of our objects: the program in `gitops/`, built on the engines of Argo CD and Flux themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::binaries::{Part, Progress, check_go, ensure, fingerprint, go, run};

const FILES: [(&str, &str); 5] = [
    ("go.mod", include_str!("../gitops/go.mod")),
    ("go.sum", include_str!("../gitops/go.sum")),
    ("main.go", include_str!("../gitops/main.go")),
    ("argo.go", include_str!("../gitops/argo.go")),
    ("flux.go", include_str!("../gitops/flux.go")),
];

/// The engines.
#[derive(Clone, Debug)]
pub struct Engines(PathBuf);

/// What an engine makes of one object, or why it makes nothing of it.
#[derive(Deserialize, Debug, Clone)]
pub struct Answer {
    /// What it says.
    #[serde(default)]
    pub answer: Value,
    /// What went wrong.
    #[serde(default)]
    pub error: String,
}

impl Engines {
    /// Makes sure that the program is in the cache. The first time this takes minutes, and a network.
    pub fn ensure() -> anyhow::Result<Self> {
        let hash = fingerprint(FILES.map(|(_, content)| content).concat().as_bytes());
        let [folder] = ensure([Part { key: format!("gitops-{hash:016x}"), make: build }])?;
        Ok(Self(folder.join("gitops")))
    }

    /// Asks about the objects of a question, one answer for each.
    pub async fn ask(&self, command: &str, question: &Value) -> anyhow::Result<Vec<Answer>> {
        self.ask_as(None, command, question).await
    }

    /// As [`Engines::ask`], as a user of a cluster.
    pub async fn ask_as(&self, kubeconfig: Option<&Path>, command: &str, question: &Value) -> anyhow::Result<Vec<Answer>> {
        let mut program = Command::new(&self.0);
        program.arg(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        if let Some(path) = kubeconfig {
            program.env("KUBECONFIG", path);
        }
        let mut child = program.spawn().context("cannot start the engines")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(question.to_string().as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn build(work: &Path, out: &Path) -> anyhow::Result<()> {
    check_go()?;
    for (name, content) in FILES {
        fs::write(work.join(name), content)?;
    }
    let _progress = Progress::start("building the engines of Argo CD and Flux (takes a few minutes the first time)".into());
    run(go(work).args(["build", "-ldflags", "-s -w", "-o"]).arg(out.join("gitops")).arg("."))
        .context("cannot build the engines of Argo CD and Flux")?;
    Ok(())
}
