//! A bed that stays up for a person. Its network namespace keeps everybody out, but unix sockets do not belong to a
//! network: the outer process listens on free ports of 127.0.0.1 and relays to sockets in the bed's folder, and the
//! inner process relays from there to the API server and the gateway.

use std::fs;
use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use testbed::bed::{Bed, BedOptions};
use testbed::gateway::{Gateway, GatewayOptions};
use testbed::namespace::{self, Entered, Outside};
use testbed::pki;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::state::{self, Claim, STATUS, STOP, Status};

const API_PORT: u16 = 6443;
/// Appears last, when all the rest is up.
const API_SOCKET: &str = "api.sock";
const GATEWAY_SOCKET: &str = "gateway.sock";
const KUBECONFIG: &str = "kubeconfig";

/// Boots a bed and keeps it up until a signal or `testbed down`; `announce` is called when it is up. Both the outer
/// and the inner process come here.
pub fn run(name: &str, announce: fn(&str, &Status)) -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    if let Some(namespace) = namespace::entered()? {
        return runtime.block_on(inside(&namespace));
    }
    let claim = Claim::take(name)?.with_context(|| already_up(name))?;
    let code = runtime.block_on(outside(name, &claim, announce))?;
    drop(claim);
    // Not by returning: whoever asked for the end holds a connection, which must end with the process.
    std::process::exit(code)
}

/// The error when a name is taken.
pub fn already_up(name: &str) -> String {
    format!("a test bed named {name} is already up; end it with `testbed down --name {name}`, or choose another name")
}

async fn outside(name: &str, claim: &Claim, announce: fn(&str, &Status)) -> anyhow::Result<i32> {
    let outside = Outside::new(claim.dir(), "bed")?;
    let api = TcpListener::bind(("127.0.0.1", 0)).await?;
    let gateway = TcpListener::bind(("127.0.0.1", 0)).await?;
    let status = watch::Sender::new(Status {
        ready: false,
        api: format!("https://{}", api.local_addr()?),
        gateway: format!("http://{}", gateway.local_addr()?),
        kubeconfig: claim.dir().join(KUBECONFIG),
        dir: outside.dir().to_owned(),
    });
    let stop = Arc::new(Notify::new());
    let control = UnixListener::bind(state::control_socket(claim.dir()))?;
    tokio::spawn(answer(control, status.subscribe(), stop.clone()));

    let dir = outside.dir().to_owned();
    let open_to_the_outside = async move {
        while UnixStream::connect(dir.join(API_SOCKET)).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
        let mut now = status.borrow().clone();
        now.ready = true;
        fs::write(&now.kubeconfig, fs::read_to_string(dir.join(KUBECONFIG))?.replace(pki::SERVER, &now.api))?;
        tokio::spawn(relay_to_socket(api, dir.join(API_SOCKET)));
        tokio::spawn(relay_to_socket(gateway, dir.join(GATEWAY_SOCKET)));
        announce(name, &now);
        status.send_replace(now);
        anyhow::Ok(())
    };
    let told_to_stop = async move {
        tokio::select! {
            () = stop.notified() => {}
            Err(error) = open_to_the_outside => eprintln!("error: cannot open the test bed to the outside: {error:#}"),
        }
    };
    outside.run(told_to_stop).await
}

async fn inside(namespace: &Entered) -> anyhow::Result<()> {
    let dir = namespace.dir();
    let log = fs::File::create(dir.join("testbed.log"))?;
    tracing_subscriber::fmt().with_ansi(false).with_writer(log).init();
    let mut bed = Bed::boot(namespace, BedOptions::default()).await?;
    let gateway = Gateway::start(&bed, GatewayOptions::default()).await?;
    fs::copy(bed.kubeconfig(), dir.join(KUBECONFIG))?;
    tokio::spawn(relay_to_port(UnixListener::bind(dir.join(GATEWAY_SOCKET))?, gateway.options().port));
    tokio::spawn(relay_to_port(UnixListener::bind(dir.join(API_SOCKET))?, API_PORT));
    Err(bed.failure().await)
}

/// Answers on the control socket.
async fn answer(control: UnixListener, status: watch::Receiver<Status>, stop: Arc<Notify>) {
    while let Ok((socket, _)) = control.accept().await {
        let (status, stop) = (status.clone(), stop.clone());
        tokio::spawn(async move {
            let mut socket = BufReader::new(socket);
            let mut question = String::new();
            socket.read_line(&mut question).await?;
            match question.as_str() {
                STATUS => {
                    let answer = serde_json::to_vec(&*status.borrow())?;
                    socket.write_all(&answer).await?;
                }
                STOP => {
                    stop.notify_one();
                    // Holds the connection until the process is gone.
                    pending::<()>().await;
                }
                _ => {}
            }
            anyhow::Ok(())
        });
    }
}

async fn relay_to_socket(listener: TcpListener, socket: impl AsRef<Path> + Clone + Send + 'static) {
    loop {
        // Accepting fails for want of files or of the peer; both pass.
        let Ok((client, _)) = listener.accept().await else { continue };
        let socket = socket.clone();
        tokio::spawn(async move {
            client.set_nodelay(true)?;
            relay(client, UnixStream::connect(socket).await?).await
        });
    }
}

async fn relay_to_port(listener: UnixListener, port: u16) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let server = TcpStream::connect(("127.0.0.1", port)).await?;
            server.set_nodelay(true)?;
            relay(client, server).await
        });
    }
}

async fn relay(mut one: impl AsyncRead + AsyncWrite + Unpin, mut other: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    copy_bidirectional(&mut one, &mut other).await.map(drop)
}
