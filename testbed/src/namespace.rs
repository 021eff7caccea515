//! A user, network, process and mount namespace of its own for every bed.
//!
//! The current program is started again inside, where only the loopback interface exists: every port is free, and every
//! pod address is local. There are three processes of it, which all run the same `main`:
//!
//! * The *outer* one waits, and passes the exit code on.
//! * The *first* one is process 1 of the namespace, so that the kernel ends everything else with it. It holds the read
//!   end of a pipe from the outer one: when that goes, in whatever way, the first one reads the end of the pipe, kills
//!   all others, removes the bed's folder and leaves.
//! * The *inner* one is its child and does the work. (It cannot be process 1 itself: it would see its programs die when
//!   the bed is taken down, and end with an error before the folder is gone.)

use std::future::{Future, pending};
use std::net::Ipv4Addr;
use std::os::unix::process::{ExitStatusExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::TryStreamExt;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// Carries the bed's folder inwards. Only the first two processes of a namespace believe it: all others inherit it.
const DIR_VARIABLE: &str = "AETHER_BED_DIR";
/// Pods, Services, somewhere on the internet, and the clouds' metadata server. Connections to them, and listeners on them, stay
/// inside the bed.
const LOCAL_RANGES: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 244, 0, 0), 16),
    (Ipv4Addr::new(10, 96, 0, 0), 16),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(169, 254, 169, 254), 32),
];
const LOCAL_TABLE: u32 = 255;
/// How long the inner process may take to leave before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// The namespace that this process is in. Holding one proves that this is the inner process.
#[derive(Debug)]
pub struct Entered {
    dir: PathBuf,
}

impl Entered {
    /// A fresh folder for everything that the bed writes. It goes when the bed goes.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Enters a new namespace. To be called early in `main`, before any runtime or thread: only the inner process returns
/// from here; the outer one exits with the inner one's exit code.
/// `prefix` becomes part of the name of the bed's folder.
pub fn enter(prefix: &str) -> anyhow::Result<Entered> {
    if let Some(entered) = entered()? {
        return Ok(entered);
    }
    let outside = Outside::new(&std::env::temp_dir(), prefix)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(outside.run(pending()))?;
    std::process::exit(code)
}

/// `Some` in the inner process, `None` in the outer one. The first one never returns from here.
pub fn entered() -> anyhow::Result<Option<Entered>> {
    let Some(dir) = std::env::var_os(DIR_VARIABLE).map(PathBuf::from) else { return Ok(None) };
    if std::process::id() == 1 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = runtime.block_on(first_process());
        leave(&dir);
        std::process::exit(code?);
    }
    Ok((parent_id() == 1).then_some(Entered { dir }))
}

/// An error, in one sentence, unless a namespace can be made here.
pub fn check() -> anyhow::Result<()> {
    unshare_flags().map(drop)
}

/// User (as its root), network, process ids; the file system view is added for a fresh /proc.
const UNSHARE_AS_ANYBODY: &str = "-Urnpf";
/// The same for root on a system without user namespaces.
const UNSHARE_AS_ROOT: &str = "-npf";
/// Whoever kills unshare kills the first process.
const UNSHARE: [&str; 2] = ["--mount-proc", "--kill-child"];

fn unshare_flags() -> anyhow::Result<&'static str> {
    let mut complaint = None;
    for flags in [UNSHARE_AS_ANYBODY, UNSHARE_AS_ROOT] {
        // Runs unshare in unshare, because that is certainly there.
        let tried = Command::new("unshare").arg(flags).args(UNSHARE).args(["unshare", "--version"]).output();
        match tried {
            Ok(output) if output.status.success() => return Ok(flags),
            Ok(output) => {
                complaint.get_or_insert_with(|| String::from_utf8_lossy(&output.stderr).trim().to_owned());
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("unshare (of util-linux) is needed to isolate the test bed; install it and run again")
            }
            Err(error) => return Err(error).context("cannot start unshare"),
        }
    }
    let complaint = complaint.unwrap_or_default();
    bail!(
        "this system does not permit user namespaces, which the test bed needs ({complaint}); allow them (sysctl \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, user.max_user_namespaces) \
         or run as root"
    )
}

/// The outer side of a namespace that is about to be made.
pub struct Outside {
    dir: TempDir,
    flags: &'static str,
}

impl Outside {
    /// Prepares a namespace whose folder will be in `parent`.
    pub fn new(parent: &Path, prefix: &str) -> anyhow::Result<Self> {
        let flags = unshare_flags()?;
        let dir = tempfile::Builder::new().prefix(&format!("aether-{prefix}-")).tempdir_in(parent)?;
        Ok(Self { dir, flags })
    }

    /// The bed's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts this program again, with the same arguments, inside; waits until it ends, and returns its exit code.
    /// On a signal, or when `stop` resolves, everything inside is ended first. Nothing is left afterwards.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<i32> {
        let ended = Signals::listen()?;
        let mut child = tokio::process::Command::new("unshare")
            .arg(self.flags)
            .args(UNSHARE)
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(DIR_VARIABLE, self.dir.path())
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lifeline = child.stdin.take();
        let code = tokio::select! {
            status = child.wait() => return Ok(exit_code(status?)),
            code = ended.any() => code,
            () = stop => 0,
        };
        drop(lifeline);
        if timeout(GRACE, child.wait()).await.is_err() {
            child.kill().await?;
        }
        Ok(code)
    }
}

/// Process 1: runs the inner process until it ends, the outer one is gone, or a signal comes. Returns the exit code.
async fn first_process() -> anyhow::Result<i32> {
    // The kernel delivers to process 1 only the signals that it handles.
    let ended = Signals::listen()?;
    raise_file_limit();
    bring_up_network().await.context("cannot set up the network of the namespace")?;
    let mut child =
        tokio::process::Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).stdin(Stdio::null()).spawn()?;
    // Nobody writes to the pipe, so that this returns at its end only.
    let outer_is_gone = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    tokio::select! {
        status = child.wait() => Ok(exit_code(status?)),
        code = ended.any() => Ok(code),
        _ = outer_is_gone => Ok(1),
    }
}

/// The signals that end a bed.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the first one and returns the exit code that goes with it.
    async fn any(mut self) -> i32 {
        let signal = tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hangup.recv() => Signal::SIGHUP,
        };
        128 + signal as i32
    }
}

/// As a shell counts it.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// Kills everything else in the namespace and removes the bed's folder.
fn leave(dir: &Path) {
    // From process 1 of a namespace, -1 means everybody else in it. They must be gone before their files can be.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    let deadline = Instant::now() + GRACE / 2;
    while Instant::now() < deadline {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::ECHILD) => break,
            _ => {}
        }
    }
    if let Err(error) = crate::requests::record(dir) {
        eprintln!("error: cannot record what the operator asked for: {error:#}");
    }
    let _ = std::fs::remove_dir_all(dir);
}

/// Many pods and many connections need many files. What the hard limit allows is used, and no more asked for.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

async fn bring_up_network() -> anyhow::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let loopback = handle.link().get().match_name("lo").execute().try_next().await?;
    let index = loopback.context("there is no loopback interface")?.header.index;
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
    for (address, length) in LOCAL_RANGES {
        // `ip route add local <range> dev lo`: the kernel takes every address of the range for its own.
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .kind(RouteType::Local)
            .table_id(LOCAL_TABLE)
            .scope(RouteScope::Host)
            .destination_prefix(address, length)
            .output_interface(index)
            .build();
        handle.route().add(route).execute().await?;
    }
    Ok(())
}
