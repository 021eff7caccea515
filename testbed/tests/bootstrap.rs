//! What the operator has its proxies boot with: the real tinyproxy with that configuration, behind that firewall.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use aether_operator::pool::bootstrap::{Login, Network, Proxy, Seat, nftables_conf, tinyproxy_conf};
use aether_operator::pool::probe::{Finding, Probing, Target, probe};
use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libtest_mimic::{Arguments, Failed, Trial};
use testbed::namespace::{self, Entered};
use testbed::nftables::Nftables;
use testbed::process::Process;
use testbed::{tinyproxy, trials};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_util::task::AbortOnDropHandle;

/// On the internet, as all of its network here.
const PAGE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80)), 80);
const METADATA: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
const PRIVATE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 244, 7, 7)), 80);
/// Where the proxies are; each trial has one of its own.
const PORT: u16 = 8899;
const LIMIT: Duration = Duration::from_mins(1);

struct Ground {
    runtime: Runtime,
    dir: PathBuf,
    tinyproxy: PathBuf,
    nftables: Nftables,
    _pages: Vec<AbortOnDropHandle<()>>,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The firewall is everybody's: it comes last, and beside nobody.
    arguments.test_threads = Some(1);
    trials::run(&arguments, ground, |ground| {
        let trial = |name: &'static str, test: fn(&Ground) -> anyhow::Result<()>| {
            let ground = ground.cloned();
            Trial::test(name, move || test(&*ground.ok_or("nothing to run on")?).map_err(|error| Failed::from(format!("{error:#}"))))
        };
        vec![
            trial("it_lets_in_whom_it_knows_and_no_other", |ground| ground.runtime.block_on(lets_in(ground))),
            trial("it_reaches_the_internet_and_no_metadata_server", |ground| ground.runtime.block_on(reaches(ground))),
        ]
    })
}

fn ground() -> anyhow::Result<Ground> {
    // While there is still a network.
    let (tinyproxy, nftables) = (tinyproxy::program()?, Nftables::ensure()?);
    let namespace: Entered = namespace::enter("bootstrap-test")?;
    let runtime = Runtime::new()?;
    let pages = runtime.block_on(async {
        let mut pages = Vec::new();
        for address in [PAGE, METADATA, PRIVATE] {
            let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
            pages.push(AbortOnDropHandle::new(tokio::spawn(page(listener))));
        }
        anyhow::Ok(pages)
    })?;
    Ok(Ground { runtime, dir: namespace.dir().to_owned(), tinyproxy, nftables, _pages: pages })
}

/// Answers every request with an empty page.
async fn page(listener: TcpListener) {
    while let Ok((mut socket, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut some = [0; 4096];
            if socket.read(&mut some).await.is_ok_and(|n| n > 0) {
                // Whoever hung up needs no answer.
                let _ = socket.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
    }
}

fn login(password: &str) -> Option<Login> {
    Login::new("me", password).ok()
}

fn proxy(allow: &str, connect: u16) -> anyhow::Result<Proxy> {
    Ok(Proxy::new(PORT, login("right-right"), vec![Network::parse(allow)?], vec![connect])?)
}

impl Ground {
    /// tinyproxy at that address, once it answers.
    async fn start(&self, proxy: &Proxy, address: Ipv4Addr) -> anyhow::Result<Process> {
        let conf = self.dir.join(format!("{address}.conf"));
        std::fs::write(&conf, tinyproxy_conf(proxy, Seat::At(address.into())))?;
        let mut command = tokio::process::Command::new(&self.tinyproxy);
        command.arg("-d").arg("-c").arg(&conf);
        let mut process = Process::spawn(&self.dir, &format!("tinyproxy-{address}"), command)?;
        process.wait_until(LIMIT, async || TcpStream::connect((address, PORT)).await.is_ok()).await?;
        Ok(process)
    }
}

/// The status of an answer, with that login or with none.
async fn code(address: Ipv4Addr, request: &str, password: Option<&str>) -> anyhow::Result<u16> {
    let login = password.map(|p| format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(format!("me:{p}"))));
    let mut socket = TcpStream::connect((address, PORT)).await?;
    let host = request.split(['/', ' ']).find(|word| word.contains('.')).context("no host")?;
    socket.write_all(format!("{request} HTTP/1.0\r\nHost: {host}\r\n{}\r\n", login.unwrap_or_default()).as_bytes()).await?;
    let mut answer = Vec::new();
    // A tunnel stays open: the first bytes are the answer.
    while !answer.contains(&b'\n') {
        let mut some = [0; 1024];
        let n = tokio::time::timeout(LIMIT, socket.read(&mut some)).await??;
        ensure!(n > 0, "{request}: no answer");
        answer.extend_from_slice(some.get(..n).unwrap_or_default());
    }
    let answer = String::from_utf8_lossy(&answer);
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| format!("{request}: {answer}"))
}

async fn lets_in(ground: &Ground) -> anyhow::Result<()> {
    let address = Ipv4Addr::new(10, 244, 250, 1);
    let running = ground.start(&proxy("10.0.0.0/8", 80)?, address).await?;
    let page = format!("GET http://{PAGE}/");
    let tunnel = |port| format!("CONNECT {}:{port}", PAGE.ip());
    let stats = "GET http://tinyproxy.stats/".to_owned();
    let right = Some("right-right");
    for (request, password, expected) in [
        (page.clone(), right, 200),
        (page.clone(), Some("wrong-wrong"), 401),
        (page, None, 407),
        (tunnel(80), right, 200),
        (tunnel(80), None, 407),
        // Not among connectPorts.
        (tunnel(8080), right, 403),
        (stats.clone(), right, 200),
        (stats.clone(), Some("wrong-wrong"), 401),
        (stats, None, 401),
    ] {
        let code = code(address, &request, password).await?;
        ensure!(code == expected, "{request} as {password:?}: {code}, not {expected}");
    }
    let how = |login| Probing { login, timeout: LIMIT, targets: Vec::new(), at_once: 1 };
    let socket = SocketAddr::from((address, PORT));
    let found = probe(socket, &how(login("right-right"))).await;
    ensure!(found == Finding::Alive { connections: Some(0) }, "the probe finds {found:?}");
    for wrong in [login("wrong-wrong"), None] {
        ensure!(probe(socket, &how(wrong)).await == Finding::WrongLogin, "a wrong login is not seen");
    }
    drop(running);

    // Our own address is not among those of `allowFrom`.
    let elsewhere = Ipv4Addr::new(10, 244, 250, 2);
    let running = ground.start(&proxy("192.0.2.0/24", 80)?, elsewhere).await?;
    let found = probe((elsewhere, PORT).into(), &how(login("right-right"))).await;
    ensure!(found == Finding::Denied, "the probe finds {found:?}");
    drop(running);
    Ok(())
}

async fn reaches(ground: &Ground) -> anyhow::Result<()> {
    let address = Ipv4Addr::new(203, 0, 113, 7);
    let made = proxy("203.0.113.0/24", 80)?;
    let running = ground.start(&made, address).await?;
    let requests = |to: SocketAddr| [format!("GET http://{to}/"), format!("CONNECT {to}")];
    let reached = async |to| {
        let mut codes = Vec::new();
        for request in requests(to) {
            codes.push(code(address, &request, Some("right-right")).await?);
        }
        anyhow::Ok(codes)
    };
    for to in [PAGE, METADATA, PRIVATE] {
        let codes = reached(to).await?;
        ensure!(codes == [200, 200], "without a firewall {to} is to be reached: {codes:?}");
    }
    let rules = ground.dir.join("nftables.conf");
    std::fs::write(&rules, as_of(&nftables_conf(&made), &ground.dir)?)?;
    ground.nftables.load(&rules)?;
    for (to, expected) in [(PAGE, [200, 200]), (METADATA, [500, 500]), (PRIVATE, [500, 500])] {
        let codes = reached(to).await?;
        ensure!(codes == expected, "{to}: {codes:?}, not {expected:?}");
    }
    // The proxy itself is as alive as before.
    let how = Probing {
        login: login("right-right"),
        timeout: LIMIT,
        targets: [PAGE, METADATA].iter().filter_map(|to| Target::parse(&format!("http://{to}/"))).collect(),
        at_once: 1,
    };
    let found = probe((address, PORT).into(), &how).await;
    ensure!(found == Finding::NoEgress { reached: 1 }, "the probe finds {found:?}");
    drop(running);
    Ok(())
}

/// There is no user `tinyproxy` here: it runs as whoever runs this.
fn as_of(rules: &str, dir: &Path) -> anyhow::Result<String> {
    use std::os::unix::fs::MetadataExt as _;
    ensure!(rules.contains("\"tinyproxy\""), "the rules name no user");
    Ok(rules.replace("\"tinyproxy\"", &std::fs::metadata(dir)?.uid().to_string()))
}
