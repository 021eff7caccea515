//! Who asks, and where: the kubeconfig, a desk, a namespace.

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::cluster::client;
use crate::orders::Desk;
use crate::orders::desk::is_namespace;
use crate::pool::wish::Defaults;

use super::Failure;
use super::args::{self, Format, Global};

/// One run of the CLI.
pub struct Session {
    /// Where orders are given, as whoever the kubeconfig says.
    pub desk: Desk,
    /// The namespace in force.
    pub namespace: String,
    /// It was named on the command line.
    pub is_named: bool,
    /// How answers are printed.
    pub format: Format,
    /// What people type to run this program.
    program: &'static str,
}

impl Session {
    /// Reads the kubeconfig; nothing is asked of the cluster yet.
    pub async fn open(global: &Global) -> Result<Self, Failure> {
        // Fails where there is one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = config(global).await?;
        // The library re-sends for minutes; whoever sits in front of it decides that here.
        config.default_retry = false;
        let namespace = global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        if !is_namespace(&namespace) {
            return Err(unusable(format!("its context's namespace {namespace:?} is none; name one with -n")));
        }
        let client = Client::try_from(config).map_err(|e| unusable(e.to_string()))?;
        Ok(Self {
            desk: Desk::new(client, &global.operator_namespace, Defaults::default()),
            namespace,
            is_named: global.namespace.is_some(),
            format: global.output,
            program: args::name_of(std::env::args_os().next().as_ref()),
        })
    }

    /// The namespace to list, or all.
    pub fn scope(&self, all: bool) -> Option<&str> {
        (!all).then_some(&*self.namespace)
    }

    /// A command as people would type it to go on.
    pub fn hint(&self, command: &str) -> String {
        let place = if self.is_named { format!(" -n {}", self.namespace) } else { String::new() };
        format!("{} {command}{place}", self.program)
    }

    /// The answer is for people.
    pub fn is_for_people(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }
}

async fn config(global: &Global) -> Result<Config, Failure> {
    let options = KubeConfigOptions { context: global.context.clone(), ..KubeConfigOptions::default() };
    let read = match &global.kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let is_asked_for = global.kubeconfig.is_some() || global.context.is_some() || std::env::var_os("KUBECONFIG").is_some();
    match read {
        Err(KubeconfigError::ReadConfig(error, file)) if error.kind() == std::io::ErrorKind::NotFound => {
            let missing = || {
                let file = file.display();
                Failure::failed(format!("there is no kubeconfig {file}; name one with --kubeconfig or in KUBECONFIG"))
            };
            if is_asked_for { Err(missing()) } else { Config::incluster().map_err(|_| missing()) }
        }
        Err(KubeconfigError::FindPath) => Config::incluster()
            .map_err(|_| Failure::failed("there is no kubeconfig, nor a home to look in; name one with --kubeconfig or in KUBECONFIG")),
        Err(error) => Err(unusable(client::unusable(&error))),
        Ok(found) => {
            let contexts: Vec<String> = found.contexts.iter().map(|c| c.name.clone()).collect();
            Config::from_custom_kubeconfig(found, &options).await.map_err(|error| match error {
                KubeconfigError::LoadContext(name) => {
                    Failure::failed(format!("the kubeconfig has no context {name}; it has {}", contexts.join(", ")))
                }
                KubeconfigError::CurrentContextNotSet => Failure::failed("the kubeconfig has no current context; name one with --context"),
                other => unusable(client::unusable(&other)),
            })
        }
    }
}

fn unusable(why: impl AsRef<str>) -> Failure {
    Failure::failed(format!("the kubeconfig cannot be used: {}", one_line(why.as_ref())))
}

/// Parsers like to draw; an error here is one sentence.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
