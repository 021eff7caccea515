//! A server for tests that says what it was told to say, whatever it is asked, and keeps what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with one request.
#[derive(Clone)]
pub enum Reply {
    /// Status, header lines, body.
    Whole(u16, &'static str, String),
    /// The connection ends without an answer.
    Lost,
    /// It ends in the middle of the body.
    Cut,
}

pub fn json_of(status: u16, body: &Value) -> Reply {
    Reply::Whole(status, "", body.to_string())
}

#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    /// In lower case.
    pub head: String,
    /// What is no JSON is a text.
    pub body: Value,
}

/// Gives the replies in order; what it saw is kept.
pub struct Server {
    pub base: String,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub async fn with(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/base", listener.local_addr().unwrap());
        let server = Self { base, replies: Arc::new(Mutex::new(replies.into_iter().collect())), seen: Arc::default() };
        let (replies, seen) = (Arc::clone(&server.replies), Arc::clone(&server.seen));
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let request = request(&mut socket).await;
                seen.lock().unwrap().push(request);
                let reply = replies.lock().unwrap().pop_front().unwrap_or(Reply::Whole(418, "", "no more replies".into()));
                let text = match reply {
                    Reply::Lost => continue,
                    Reply::Cut => "HTTP/1.1 202 Accepted\r\ncontent-length: 1000\r\n\r\n{\"half\":".into(),
                    Reply::Whole(status, headers, body) => {
                        format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
                    }
                };
                socket.write_all(text.as_bytes()).await.unwrap();
            }
        });
        server
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn request(socket: &mut TcpStream) -> Seen {
    let mut bytes = Vec::new();
    let head = loop {
        let mut some = [0; 4096];
        let n = socket.read(&mut some).await.unwrap();
        bytes.extend_from_slice(&some[..n]);
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let length = text.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(|n| n.parse::<usize>().unwrap()));
    while bytes.len() < head + length.unwrap_or(0) {
        let mut some = [0; 4096];
        let n = socket.read(&mut some).await.unwrap();
        bytes.extend_from_slice(&some[..n]);
    }
    let mut words = text.split_whitespace();
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    Seen { method, target, head: text.to_lowercase(), body: body(&bytes[head..]) }
}

fn body(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into())
}
