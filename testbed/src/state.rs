//! Which beds are up: one folder for each, in a folder of the user's. Who holds the lock on a bed's folder is its
//! supervisor, and the kernel gives the lock back when the supervisor dies, so that no process id is ever kept in a
//! file. Everything else is asked of the supervisor, through a socket in the folder.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// What a supervisor tells about its bed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Whether the bed has booted.
    pub ready: bool,
    /// Where the API server is, seen from outside.
    pub api: String,
    /// Where the gateway is, seen from outside.
    pub gateway: String,
    /// Kubeconfig file for use outside.
    pub kubeconfig: PathBuf,
    /// Folder with the logs.
    pub dir: PathBuf,
}

/// Asks for the [`Status`], as one line of JSON.
pub const STATUS: &str = "status\n";
/// Ends the bed. There is no answer; the connection ends when everything is gone.
pub const STOP: &str = "stop\n";

/// The folder of one bed, held by its supervisor. Dropping it removes the folder.
#[derive(Debug)]
pub struct Claim {
    dir: PathBuf,
    _lock: File,
}

impl Claim {
    /// Claims a name, and throws away what a supervisor that died left there. `None` when it is in use.
    pub fn take(name: &str) -> anyhow::Result<Option<Self>> {
        let dir = dir_of(name)?;
        loop {
            make_base()?;
            let lock = match make_dir(&dir).and_then(|()| File::open(&dir)) {
                Ok(lock) => lock,
                // The last owner of a folder removes it. Then begin again.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot use {}", dir.display())),
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            let locked = lock.metadata()?.ino();
            if fs::metadata(&dir).is_ok_and(|now| now.ino() == locked) {
                empty(&dir)?;
                return Ok(Some(Self { dir, _lock: lock }));
            }
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Claim {
    /// Removes the folder, and the user's when this was the last bed.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_dir(base());
    }
}

/// Path of a bed's control socket.
pub fn control_socket(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// `None` when no such bed is up.
pub fn status(name: &str) -> anyhow::Result<Option<Status>> {
    let Some(mut socket) = ask(name, STATUS)? else { return Ok(None) };
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).context("the test bed does not answer")?;
    // An empty answer: it ended just now.
    if answer.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&answer)?)) }
}

/// Ends a bed and waits until it is gone. False when there was none.
pub fn stop(name: &str) -> anyhow::Result<bool> {
    let Some(mut socket) = ask(name, STOP)? else { return Ok(false) };
    socket.read_to_end(&mut Vec::new())?;
    Ok(true)
}

/// Names of the beds that are up or were left behind.
pub fn names() -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(base()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn ask(name: &str, question: &str) -> anyhow::Result<Option<UnixStream>> {
    let mut socket = match UnixStream::connect(control_socket(&dir_of(name)?)) {
        Ok(socket) => socket,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error).context("cannot reach the test bed"),
    };
    socket.write_all(question.as_bytes())?;
    Ok(Some(socket))
}

fn base() -> PathBuf {
    std::env::temp_dir().join(format!("aether-testbed-{}", nix::unistd::getuid()))
}

fn dir_of(name: &str) -> anyhow::Result<PathBuf> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // Short, because the path of a socket may not be longer than 107 bytes.
    if name.is_empty() || name.len() > 20 || !name.chars().all(fits) {
        bail!("{name:?} cannot be the name of a test bed: use up to 20 lower case letters, digits and '-'");
    }
    Ok(base().join(name))
}

/// The temporary folder belongs to everybody, so the one in it must be seen to be the user's own.
fn make_base() -> anyhow::Result<()> {
    let base = base();
    make_dir(&base).with_context(|| format!("cannot create {}", base.display()))?;
    match fs::symlink_metadata(&base) {
        Ok(found) if found.is_dir() && found.uid() == nix::unistd::getuid().as_raw() && found.mode() & 0o777 == 0o700 => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => bail!("{} is not a private folder of this user; remove it", base.display()),
    }
}

fn make_dir(path: &Path) -> std::io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn empty(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}
