//! A real Prometheus that scrapes the gateways' own metrics pages, inside the bed's network.
//!
//! It keeps a log of the queries that it was asked, so that tests can ask for the same once more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::bed::Bed;
use crate::process::{Process, Signal};

const PATIENCE: Duration = Duration::from_mins(1);
/// Short, so that tests need not wait for it; half a minute to a minute is what people have.
const SCRAPE_INTERVAL: &str = "2s";

/// A running Prometheus. Dropping it kills it; its data goes with the bed.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    dir: PathBuf,
    process: Process,
}

/// A series of an answer: its labels and its newest value.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Labels, the name (`__name__`) among them.
    pub labels: BTreeMap<String, String>,
    /// The newest value.
    pub value: f64,
}

impl Series {
    /// A label, empty where it is not there.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }
}

impl Prometheus {
    /// Starts a Prometheus on `127.0.0.1:<port>` that scrapes `/metrics` at these ports, and waits until it answers. Several
    /// may run side by side when names and ports differ.
    pub async fn start(bed: &Bed, name: &str, port: u16, scraped: &[u16]) -> anyhow::Result<Self> {
        let dir = bed.dir().join(name);
        // It may have run before, on the same data.
        std::fs::create_dir_all(&dir)?;
        write_config(&dir, scraped)?;
        let mut command = Command::new(&bed.binaries().prometheus);
        command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.args(["--storage.tsdb.retention.time=1h", "--storage.tsdb.wal-segment-size=10MB", "--log.level=warn"]);
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::spawn(bed.dir(), name, command)?;
        let mut started = Self { port, dir, process };
        let answers = async || get(port, "/-/ready").await.is_ok_and(|(status, _)| status == 200);
        started.process.wait_until(PATIENCE, answers).await?;
        Ok(started)
    }

    /// Where it answers: `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on it scrapes these ports only.
    pub fn scrape(&self, ports: &[u16]) -> anyhow::Result<()> {
        write_config(&self.dir, ports)?;
        self.process.signal(Signal::SIGHUP)
    }

    /// The process, for tests that stop or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The queries that it was asked so far, in order.
    pub fn asked(&self) -> anyhow::Result<Vec<String>> {
        let log = std::fs::read_to_string(self.dir.join("queries.log"))?;
        let query = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?.pointer("/params/query")?.as_str()?.to_owned());
        Ok(log.lines().filter_map(query).collect())
    }

    /// Asks a query as of now, whose answer is a list of series.
    pub async fn ask(&self, query: &str) -> anyhow::Result<Vec<Series>> {
        const API: &str = "/api/v1/query?";
        #[derive(Deserialize)]
        struct Found {
            metric: BTreeMap<String, String>,
            value: Option<(f64, String)>,
            #[serde(default)]
            values: Vec<(f64, String)>,
        }
        let path = form_urlencoded::Serializer::for_suffix(API.to_owned(), API.len()).append_pair("query", query).finish();
        let (status, body) = get(self.port, &path).await?;
        ensure!(status == 200, "{query} was answered with {status}: {body}");
        let answer: Value = serde_json::from_str(&body)?;
        let found: Vec<Found> = serde_json::from_value(answer.pointer("/data/result").cloned().context("no result")?)?;
        let newest = |mut found: Found| {
            let (_, value) = found.values.pop().or(found.value).context("a series without a value")?;
            anyhow::Ok(Series { labels: found.metric, value: value.parse()? })
        };
        found.into_iter().map(newest).collect()
    }
}

fn write_config(dir: &Path, ports: &[u16]) -> anyhow::Result<()> {
    let targets: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let config = json!({
        "global": {
            "scrape_interval": SCRAPE_INTERVAL,
            "scrape_timeout": SCRAPE_INTERVAL,
            "query_log_file": dir.join("queries.log"),
        },
        "scrape_configs": [{ "job_name": "traefik", "static_configs": [{ "targets": targets }] }],
    });
    // JSON is YAML.
    Ok(std::fs::write(dir.join("prometheus.yml"), config.to_string())?)
}

/// Status and body. By HTTP/1.0, where the end of the connection is the end of the body.
async fn get(port: u16, path: &str) -> anyhow::Result<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(Duration::from_secs(10), ask).await??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no HTTP status")?.parse()?;
    Ok((status, body.to_owned()))
}
