//! The CLI: `aether`, and `kubectl aether`. Arguments -> [`Desk`](crate::orders::Desk) -> text.
//!
//! It asks, with the kubeconfig's identity, and never acts on its own: the operator does. [`args`] is what can be typed, [`render`]
//! what is printed of one thing (pure), [`live`] what is printed while it changes; a file per group of commands is the shell.

pub mod args;
pub mod convert;
mod live;
mod logs;
mod pods;
mod pool;
mod proxy;
pub mod render;
mod revisions;
mod session;
mod status;
#[cfg(test)]
mod tests;
mod undeploy;
mod update;

use std::io::Write as _;
use std::process::ExitCode;

use crate::orders::{Class, Refusal};
use args::{Args, Command, Format, Pool};
use session::Session;

/// Why it ends with another exit code than 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What is said on stderr; empty: nothing.
    pub message: String,
}

impl Failure {
    /// It went wrong, or ended otherwise than was waited for.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// It was not done in time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }

    /// Nobody reads what is printed any more: what the shell shows of a program that SIGPIPE ended.
    fn unheard() -> Self {
        Self { code: 141, message: String::new() }
    }

    /// Ctrl-C.
    fn interrupted() -> Self {
        Self { code: 130, message: String::new() }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.class {
            Class::Invalid => 2,
            Class::NotFound | Class::Forbidden | Class::Unauthenticated => 4,
            Class::Conflict | Class::Unavailable => 1,
        };
        Self { code, message: refusal.message }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            // Nobody is left to be told that nobody reads it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let args = match at_once(args) {
        Ok(args) => args,
        Err(ended) => return ended.map_or_else(|failure| end(&failure), |()| ExitCode::SUCCESS),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(&Failure::failed(format!("cannot start: {error}"))),
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = run(args) => ended,
            Ok(()) = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
        }
    });
    // Whatever still runs in the background is not waited for.
    runtime.shutdown_background();
    ended.map_or_else(|failure| end(&failure), |()| ExitCode::SUCCESS)
}

/// What needs no cluster is done by itself, so that Ctrl-C ends it as it ends any program, whatever it reads or writes.
fn at_once(args: Args) -> Result<Args, Result<(), Failure>> {
    match args.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::command("aether"), "aether", &mut script);
            Err(print(&String::from_utf8_lossy(&script)))
        }
        Command::Version => Err(print(&format!("aether {}\n", env!("CARGO_PKG_VERSION")))),
        Command::Pool(Pool::Convert { file }) => Err(pool::convert(&file, args.global.namespace.as_deref())),
        command => Ok(Args { command, ..args }),
    }
}

fn end(failure: &Failure) -> ExitCode {
    if !failure.message.is_empty() {
        note(&format!("error: {}", failure.message));
    }
    ExitCode::from(failure.code)
}

async fn run(args: Args) -> Result<(), Failure> {
    let global = &args.global;
    match args.command {
        Command::Completion { .. } | Command::Version | Command::Pool(Pool::Convert { .. }) => Ok(()),
        Command::Update(command) => Box::pin(update::run(&Session::open(global).await?, command)).await,
        Command::Status { check, timeout } => status::run(&Session::open(global).await?, check.then_some(timeout)).await,
        Command::Logs(logs) => logs::run(&Session::open(global).await?, &logs).await,
        Command::Undeploy(undeploy) => undeploy::run(&Session::open(global).await?, &undeploy).await,
        Command::Pool(command) => pool::run(&Session::open(global).await?, command).await,
        Command::Proxy(asked) => proxy::proxy(&Session::open(global).await?, &asked.ports).await,
    }
}

/// Prints an answer.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::unheard(),
        _ => Failure::failed(format!("the answer cannot be written: {error}")),
    })
}

/// Says something beside the answer.
fn note(line: &str) {
    // Nobody is left to be told that nobody reads it.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a thing as wanted: as JSON, as YAML, or for people.
fn show<T: serde::Serialize>(format: Format, thing: &T, for_people: impl FnOnce(bool) -> String) -> Result<(), Failure> {
    let broken = |e: String| Failure::failed(format!("the answer cannot be printed: {e}"));
    let text = match format {
        Format::Json => serde_json::to_string_pretty(thing).map_err(|e| broken(e.to_string()))? + "\n",
        Format::Yaml => serde_yaml::to_string(thing).map_err(|e| broken(e.to_string()))?,
        Format::Table | Format::Wide => for_people(format == Format::Wide),
    };
    print(&text)
}
