//! A page as one script: what is run, what is asked, and what the API server is shown, in the page's order.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testbed::bed::Bed;
use testbed::operator::repository;
use testbed::packaging::documents;
use testbed::shell::bash;
use tokio::time::timeout;

use crate::page::{Block, Kind, Page};
use crate::shell::questions;

/// For one page.
const LIMIT: Duration = Duration::from_secs(170);
/// Told first by each block, so that what goes wrong has a place.
const MARK: &str = "### ";
/// What a reader who stands in a checkout sees.
const CHECKOUT: [&str; 6] = ["charts", "crds", "deploy", "docs", "examples", "gitops"];

/// A page made ready.
pub struct Script {
    name: String,
    pub text: String,
    /// Files that blocks are, by name.
    files: Vec<(String, String)>,
}

/// Makes a page ready; what can be seen to be wrong without a cluster is told here.
pub fn of(page: &Page) -> anyhow::Result<Script> {
    let mut script = Script { name: page.name.clone(), text: "set -eo pipefail\n".into(), files: Vec::new() };
    for block in page.with_hidden() {
        let at = format!("{}:{}", page.name, block.line);
        script.text += &format!("echo '{MARK}{at}'\n");
        let lines = script.lines(block).with_context(|| at)?;
        script.text += &lines;
    }
    Ok(script)
}

impl Script {
    /// What is done about a block.
    fn lines(&mut self, block: &Block) -> anyhow::Result<String> {
        let Block { line, kind, text } = block;
        Ok(match kind {
            Kind::Run | Kind::Hidden => format!("{text}\n"),
            Kind::Check => {
                let file = self.keep(format!("block-{line}.sh"), text);
                format!("bash -n {file}\n{}", questions(text)?)
            }
            Kind::Objects(name) => {
                ensure!(documents(text)?.iter().all(Value::is_object), "a document that is no object");
                let file = self.keep(name.clone().unwrap_or_else(|| format!("block-{line}.yaml")), text);
                let (ours, others): (Vec<Value>, Vec<Value>) = documents(text)?.into_iter().partition(is_for_the_api_server);
                match (ours.len(), others.len()) {
                    (0, _) => String::new(),
                    (_, 0) => format!("kubectl apply --dry-run=server -f {file}\n"),
                    _ => {
                        let list = json!({"apiVersion": "v1", "kind": "List", "items": ours});
                        let file = self.keep(format!("block-{line}.json"), &list.to_string());
                        format!("kubectl apply --dry-run=server -f {file}\n")
                    }
                }
            }
            Kind::Part(kind) => {
                let file = self.keep(format!("block-{line}.yaml"), &whole(kind, text)?);
                format!("kubectl apply --dry-run=server -f {file}\n")
            }
            Kind::Values => {
                ensure!(documents(text)?.len() == 1, "values are one document");
                let file = self.keep(format!("block-{line}.yaml"), text);
                format!(
                    "if command -v helm >/dev/null && [ -d charts/aether-operator ]; then helm template aether-operator charts/aether-operator -n aether-system -f {file} >/dev/null; fi\n"
                )
            }
            Kind::Json => {
                serde_json::from_str::<Value>(text)?;
                String::new()
            }
            Kind::Env(name) => {
                let is_setting = |line: &str| line.split_once('=').is_some_and(|(key, _)| !key.contains(char::is_whitespace));
                ensure!(text.lines().all(|line| is_setting(line) || line.is_empty() || line.starts_with('#')), "lines are KEY=VALUE");
                self.keep(name.clone(), text);
                String::new()
            }
            Kind::Text => String::new(),
        })
    }

    fn keep(&mut self, name: String, text: &str) -> String {
        self.files.push((name.clone(), text.to_owned()));
        name
    }

    /// Runs it in a namespace, a folder and with a kubeconfig of its own.
    pub async fn run(&self, bed: &Bed) -> anyhow::Result<()> {
        let namespace = self.name.trim_end_matches(".md").replace(['/', '_', '.'], "-").to_lowercase();
        bed.create_namespace(&namespace).await?;
        let folder = bed.dir().join(format!("page-{namespace}"));
        std::fs::create_dir(&folder)?;
        let checkout = repository().canonicalize()?;
        for name in CHECKOUT.iter().filter(|name| checkout.join(name).exists()) {
            std::os::unix::fs::symlink(checkout.join(name), folder.join(name))?;
        }
        for (name, text) in &self.files {
            std::fs::write(folder.join(name), text)?;
        }
        let kubeconfig = folder.join("kubeconfig");
        std::fs::copy(bed.kubeconfig(), &kubeconfig)?;
        let context = format!("kubectl config set-context --current --namespace={namespace} >/dev/null\n");
        let log = folder.join("log");
        let out = std::fs::File::create(&log)?;
        let mut command = bash(bed, &kubeconfig, &namespace)?;
        command.current_dir(&folder).env("CHECKOUT", &checkout).args(["-c", &(context + &self.text)]);
        // A group of its own: what the page left running ends with it.
        command.process_group(0).stdout(out.try_clone()?).stderr(Stdio::from(out));
        let mut child = command.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).context("no process")?;
        let ended = timeout(LIMIT, child.wait()).await;
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
        let said = std::fs::read_to_string(&log)?;
        let (place, rest) = said.rsplit_once(MARK).and_then(|(_, rest)| rest.split_once('\n')).unwrap_or(("nowhere", &said));
        let status = ended.with_context(|| format!("{place} does not end within {LIMIT:?}:\n{rest}"))??;
        ensure!(status.success(), "{place} fails with {status}:\n{rest}\n{}", state(bed, &namespace).await);
        bed.kubectl(&["-n", &namespace, "delete", "rollingupdates,proxypools", "--all", "--wait=false"]).await?;
        bed.kubectl(&["delete", "namespace", &namespace, "--wait=false"]).await?;
        Ok(())
    }
}

/// What there is, for an error.
async fn state(bed: &Bed, namespace: &str) -> String {
    let shown = bed.kubectl(&["-n", namespace, "get", "rollingupdates,proxypools,deployments,pods", "-o", "wide"]).await;
    shown.unwrap_or_else(|error| error.to_string())
}

/// What kustomize and kind read is no object of a cluster; the commands that use it tell. The definition of a HelmRelease is not to be
/// had as a module.
fn is_for_the_api_server(document: &Value) -> bool {
    let theirs = ["kustomize.config.k8s.io", "kind.x-k8s.io", "helm.toolkit.fluxcd.io"];
    !document["apiVersion"].as_str().is_some_and(|version| theirs.iter().any(|group| version.starts_with(group)))
}

/// A part of a spec in the place of an example's.
fn whole(kind: &str, part: &str) -> anyhow::Result<String> {
    let file = match kind {
        "RollingUpdate" => "minimal.yaml",
        "ProxyPool" => "pool-digitalocean.yaml",
        _ => anyhow::bail!("there is no kind {kind}"),
    };
    let mut object: Value = serde_yaml::from_str(&std::fs::read_to_string(repository().join("examples").join(file))?)?;
    object["metadata"]["name"] = "part-of-a-page".into();
    let part: Value = serde_yaml::from_str(part)?;
    for (key, value) in part.as_object().context("no fields")? {
        object["spec"][key] = value.clone();
    }
    Ok(serde_yaml::to_string(&object)?)
}
