//! A program that runs beside the tests: its log in a file, gone when its owner is gone.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
pub use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

const LOG_TAIL_BYTES: usize = 4000;

/// A running program. Dropping it kills the program.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command` with its output appended to `<dir>/<name>.log` and no input.
    pub fn spawn(dir: &Path, name: &str, mut command: Command) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let output = OpenOptions::new().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A group of its own, so that Ctrl-C reaches only the test bed itself, which then ends everything in order.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    /// Where the output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Process id, until the process has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks `ready` again and again until it says yes. An error when the program ends before, or when `limit` is over.
    pub async fn wait_until(&mut self, limit: Duration, mut ready: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if self.child.try_wait()?.is_some() {
                return Err(self.ended().await);
            }
            if ready().await {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} was not ready after {limit:?}; {}", self.name, self.tail());
            }
            sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until the program ends by itself, and tells how, with the end of its log.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow!("{} ended ({status}); {}", self.name, self.tail()),
            Err(error) => anyhow!("{} is lost: {error}", self.name),
        }
    }

    /// Sends a signal: `SIGTERM`, `SIGSTOP` and `SIGCONT` are what tests want.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // The child has not been waited for as long as there is an id, so that the id cannot be somebody else's.
        let id = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        Ok(nix::sys::signal::kill(Pid::from_raw(i32::try_from(id)?), signal)?)
    }

    /// Asks the program to end, and waits for it. An error when it is still there after `limit`; it is killed then.
    pub async fn terminate(&mut self, limit: Duration) -> anyhow::Result<std::process::ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        if let Ok(status) = timeout(limit, self.child.wait()).await {
            return Ok(status?);
        }
        self.kill().await?;
        bail!("{} did not end within {limit:?} of SIGTERM", self.name)
    }

    /// Kills the program and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let end = text.get(text.len().saturating_sub(LOG_TAIL_BYTES)..).unwrap_or_default();
        format!("the end of {}:\n{}", self.log.display(), String::from_utf8_lossy(end).trim_end())
    }
}
