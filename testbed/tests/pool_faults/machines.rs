//! The VMs of all clouds of the matrix: one server that answers for each address as the tinyproxy would that the VM there
//! was ordered with, while it runs, and that hangs up for all others. A process for each VM would be too much for hundreds
//! of pools; what is asked of it is what `pool.rs` shows real ones to answer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use testbed::fake_cloud::Change;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Where proxies listen.
pub const PORT: u16 = 8899;

/// By address, the login that the VM there was ordered with.
type Running = Arc<Mutex<HashMap<IpAddr, String>>>;

/// Starts the server. Clouds tell the sender of their VMs.
pub async fn start() -> anyhow::Result<UnboundedSender<Change>> {
    let running = Running::default();
    let (tell, mut told) = unbounded_channel();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let machines = running.clone();
    tokio::spawn(async move {
        while let Some(change) = told.recv().await {
            let mut running = machines.lock().unwrap();
            match change {
                Change::Booted(vm) => drop(running.insert(vm.address, login(&vm.order.user_data).unwrap_or_default())),
                Change::Died(vm) => drop(running.remove(&vm.address)),
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let login = socket.local_addr().ok().and_then(|at| running.lock().unwrap().get(&at.ip()).cloned());
            if let Some(login) = login {
                tokio::spawn(answer(socket, login));
            }
        }
    });
    Ok(tell)
}

/// As the configuration in the script says it.
fn login(script: &str) -> Option<String> {
    let line = script.lines().find_map(|line| line.strip_prefix("BasicAuth "))?;
    line.split_once(' ').map(|(user, password)| STANDARD.encode(format!("{user}:{password}")))
}

async fn answer(mut socket: TcpStream, login: String) {
    let mut bytes = vec![0; 4096];
    let Ok(read) = socket.read(&mut bytes).await else { return };
    let asked = String::from_utf8_lossy(&bytes[..read]).into_owned();
    let (status, text) = if !asked.contains(&format!("Proxy-Authorization: Basic {login}\r\n")) {
        ("407 Proxy Authentication Required", "")
    } else if asked.starts_with("GET http://tinyproxy.stats/ ") {
        ("200 OK", "Number of open connections: 1")
    } else {
        ("404 Not Found", "")
    };
    let _ = socket.write_all(format!("HTTP/1.0 {status}\r\n\r\n{text}").as_bytes()).await;
}
