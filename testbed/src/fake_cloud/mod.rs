//! A cloud to test against: one server and one state machine that speaks the APIs of five clouds.
//!
//! | dialect | base URL for its clients |
//! |---|---|
//! | DigitalOcean v2 | `http://ADDRESS` (pydo's `endpoint`) |
//! | Hetzner Cloud v1 | `http://ADDRESS/v1` |
//! | Vultr v2 | `http://ADDRESS` |
//! | Compute Engine v1 | `http://ADDRESS` (the `api_endpoint` of Google's clients); tokens at `/token` |
//! | EC2 2016-11-15 | `http://ADDRESS` (botocore's `endpoint_url`) |
//!
//! Only what has to do with VMs is there: list, get, create, delete and, where the cloud has them, operations.
//!
//! Tests set [`Knobs`], [`Fault`]s and the [`clock`](FakeCloud::set_clock), and ask for the [`Truth`]; both from Rust and
//! over HTTP, see [`control`]. What a VM boots is the caller's affair: [`Settings::machines`] is told of every
//! boot and death, with the address, which is one of the caller's own, so that a real proxy can be there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::AbortOnDropHandle;

pub mod control;
mod desk;
mod digitalocean;
mod ec2;
mod ec2_form;
mod ec2_xml;
mod gce;
mod gce_filter;
mod hetzner;
pub mod knobs;
mod labels;
mod page;
pub mod rate;
mod seconds;
mod serve;
pub mod state;
pub mod truth;
pub mod vm;
mod vultr;

pub use knobs::{Death, Effect, Fault, Knobs, Refusal, Reuse};
pub use rate::{Limit, Shape};
pub use truth::{Truth, Twins};
pub use vm::{End, Order, Phase, Vm};

use desk::Cloud;
use state::State;

/// A moment by the cloud's clock.
pub type Time = DateTime<Utc>;

/// The cloud whose API is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// DigitalOcean, API v2.
    DigitalOcean,
    /// Hetzner Cloud, API v1.
    Hetzner,
    /// Vultr, API v2.
    Vultr,
    /// Google Compute Engine, API v1.
    Gce,
    /// Amazon EC2, API 2016-11-15.
    Ec2,
}

/// What is asked of the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// Several VMs.
    List,
    /// One VM by its id or name.
    Get,
    /// New VMs.
    Create,
    /// To delete VMs.
    Delete,
    /// Where an operation is.
    Operation,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::DigitalOcean, Self::Hetzner, Self::Vultr, Self::Gce, Self::Ec2];

    /// Among which VMs of an account a name may be there only once; `None`: it may be there any number of times.
    fn unique_names(self) -> Option<fn(&Order, &Order) -> bool> {
        match self {
            Self::Hetzner => Some(|_, _| true),
            Self::Gce => Some(|one, other| one.place == other.place),
            Self::DigitalOcean | Self::Vultr | Self::Ec2 => None,
        }
    }

    /// How long a VM that is gone is still listed, as such.
    fn remembers(self) -> Duration {
        if self == Self::Ec2 { Duration::from_hours(1) } else { Duration::ZERO }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(match self {
            Self::DigitalOcean => "DigitalOcean",
            Self::Hetzner => "Hetzner",
            Self::Vultr => "Vultr",
            Self::Gce => "Compute Engine",
            Self::Ec2 => "EC2",
        })
    }
}

/// A machine's change, as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The VM runs: something may serve at its address from now on.
    Booted(Vm),
    /// It runs no more.
    Died(Vm),
}

/// What a cloud is started with.
pub struct Settings {
    /// Where it listens. Default: a free port of 127.0.0.1.
    pub listen: SocketAddr,
    /// Account by credential: bearer token, or access key id for EC2. Default: `test`, of the account `test`. In
    /// Compute Engine the account is the project; what has no credential is let in there, as anonymous clients need.
    pub accounts: BTreeMap<String, String>,
    /// Addresses that VMs get, in this order. Default: 198.18.0.1 and the 4,093 that follow, where nobody is.
    pub addresses: Vec<IpAddr>,
    /// Is told of boots and deaths, in order.
    pub machines: Option<UnboundedSender<Change>>,
    /// How it behaves to begin with.
    pub knobs: Knobs,
}

impl Default for Settings {
    fn default() -> Self {
        let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            accounts: BTreeMap::from([("test".to_owned(), "test".to_owned())]),
            addresses: (1..=4094).map(|host| Ipv4Addr::from(first + host).into()).collect(),
            machines: None,
            knobs: Knobs::default(),
        }
    }
}

/// A running cloud. It ends when dropped.
pub struct FakeCloud {
    cloud: Cloud,
    address: SocketAddr,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl FakeCloud {
    /// Starts to listen.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await.with_context(|| format!("cannot listen at {}", settings.listen))?;
        let address = listener.local_addr()?;
        let mut state = State::new(settings.addresses);
        state.knobs = settings.knobs;
        let cloud = Cloud::new(state, settings.accounts, settings.machines);
        let routes = serve::routes().with_state(cloud.clone());
        let tasks = [tokio::spawn(serve::serve(listener, routes)), tokio::spawn(cloud.clone().tell())];
        Ok(Self { cloud, address, _tasks: tasks.map(AbortOnDropHandle::new) })
    }

    /// Where it listens, as a URL without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a client of this dialect takes as its base URL.
    pub fn base_url(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::Hetzner => format!("{}/v1", self.url()),
            Dialect::DigitalOcean | Dialect::Vultr | Dialect::Gce | Dialect::Ec2 => self.url(),
        }
    }

    /// What the operator's client of this dialect takes as its base URL: some count the version to it.
    pub fn operators_url(&self, dialect: Dialect) -> String {
        let version = match dialect {
            Dialect::DigitalOcean | Dialect::Vultr => "/v2",
            Dialect::Gce => "/compute/v1",
            Dialect::Hetzner | Dialect::Ec2 => "",
        };
        self.base_url(dialect) + version
    }

    /// Changes how it behaves.
    pub fn set(&self, change: impl FnOnce(&mut Knobs)) {
        self.cloud.with(|state, _| change(&mut state.knobs));
    }

    /// From now on this goes wrong, too.
    pub fn add_fault(&self, fault: Fault) {
        self.cloud.with(|state, _| state.faults.push(fault));
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.cloud.with(|state, _| state.faults.clear());
    }

    /// How many faults have not struck yet as often as they should.
    pub fn faults_left(&self) -> usize {
        self.cloud.with(|state, _| state.faults.len())
    }

    /// Waits until a request is held (see [`Effect::HoldRequest`] and [`Effect::HoldReply`]).
    pub async fn holds(&self) {
        // The cloud is there as long as its sender.
        let _ = self.cloud.held().subscribe().wait_for(|held| held.times > 0).await;
    }

    /// What is held goes on, and nothing will be held any more.
    pub fn release(&self) {
        self.cloud.held().send_modify(|held| held.released = true);
    }

    /// The key of a service account in that project, as Google makes them; its tokens are got here.
    pub fn service_account_key(&self, project: &str) -> String {
        let key = serde_json::json!({
            "type": "service_account",
            "project_id": project,
            "private_key_id": "1",
            "private_key": include_str!("service_account.pem"),
            "client_email": format!("fake@{project}.iam.gserviceaccount.com"),
            "token_uri": format!("{}/token", self.url()),
        });
        key.to_string()
    }

    /// A VM dies by itself. An error if it is not there.
    pub fn kill(&self, vm: u64, death: Death) -> anyhow::Result<()> {
        self.cloud.with(|state, now| state.kill(vm, death, now)).map_err(|_| anyhow::anyhow!("there is no VM {vm}"))
    }

    /// The cloud's time.
    pub fn now(&self) -> Time {
        self.cloud.with(|_, now| now)
    }

    /// Sets the cloud's clock.
    pub fn set_clock(&self, setting: Clock) {
        self.cloud.set_clock(setting);
    }

    /// What really happened so far.
    pub fn truth(&self) -> Truth {
        self.cloud.with(|state, now| Truth::of(state, now))
    }
}

impl Drop for FakeCloud {
    fn drop(&mut self) {
        // What is held would be for ever.
        self.release();
    }
}

/// What can be done to the clock. It never goes back by itself; who stops it has to move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// It stays where it is.
    Stop,
    /// It goes on from where it is, as fast as any other.
    Go,
    /// It jumps ahead, running or not.
    Advance(#[serde(with = "seconds")] Duration),
}

/// The clock's state.
#[derive(Clone, Copy, Debug, Default)]
struct Hands {
    ahead: TimeDelta,
    stopped: Option<Time>,
}

impl Hands {
    fn read(self, real: Time) -> Time {
        self.stopped.unwrap_or(real + self.ahead)
    }

    fn set(&mut self, setting: Clock, real: Time) {
        let now = self.read(real);
        match setting {
            Clock::Stop => self.stopped = Some(now),
            Clock::Go => *self = Self { ahead: now - real, stopped: None },
            Clock::Advance(by) if self.stopped.is_some() => self.stopped = Some(now + by),
            Clock::Advance(by) => self.ahead = now + by - real,
        }
    }
}

#[cfg(test)]
mod wire_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_clock_moves_only_when_it_is_moved() {
        let real = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let mut hands = Hands::default();
        assert_eq!(hands.read(real(10)), real(10));
        hands.set(Clock::Stop, real(10));
        assert_eq!(hands.read(real(20)), real(10));
        hands.set(Clock::Advance(Duration::from_secs(100)), real(20));
        assert_eq!(hands.read(real(30)), real(110));
        hands.set(Clock::Go, real(30));
        assert_eq!(hands.read(real(31)), real(111));
        hands.set(Clock::Advance(Duration::from_secs(9)), real(31));
        assert_eq!(hands.read(real(31)), real(120));
    }
}
