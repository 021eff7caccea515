//! The real helm, as a person runs it on the bed's cluster.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use testbed::operator;
use testbed::packaging::documents;
use testbed::rig::Rig;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_mins(5);

/// The chart of this repository.
pub fn chart() -> PathBuf {
    operator::repository().join("charts/aether-operator")
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn succeeded(self) -> anyhow::Result<String> {
        ensure!(self.ok, "{}{}", self.out, self.err);
        Ok(self.out)
    }
}

/// Runs helm with these values, which it reads as a file from `-f -`.
pub async fn run(rig: &Rig, args: &[&str], values: &Value) -> anyhow::Result<Said> {
    let home = rig.bed.dir().join("helm");
    std::fs::create_dir_all(&home)?;
    let mut command = Command::new(&rig.bed.binaries().helm);
    command.args(args).env("KUBECONFIG", rig.bed.kubeconfig()).env("HOME", &home);
    if !values.is_null() {
        command.args(["--values", "-"]);
    }
    said(command, &if values.is_null() { String::new() } else { values.to_string() }).await
}

/// Runs a command with this input until it ends.
pub async fn said(mut command: Command, input: &str) -> anyhow::Result<Said> {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = timeout(PATIENCE, child.wait_with_output()).await.with_context(|| format!("{what} does not end"))??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) })
}

/// What a chart renders, as objects.
pub async fn template(rig: &Rig, namespace: &str, values: &Value, options: &[&str]) -> anyhow::Result<Vec<Value>> {
    let chart = chart();
    let args = [&["template", "aether-operator", text(&chart)?, "--namespace", namespace], options].concat();
    documents(&run(rig, &args, values).await?.succeeded()?)
}

/// Objects as a stream. (Of a List kubectl checks the objects itself, by rules older than the API server's.)
pub fn stream(objects: &[Value]) -> String {
    objects.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n")
}

pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the path is not UTF-8")
}
