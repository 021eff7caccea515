//! EC2 instances, through Amazon's own SDK.
//!
//! A ClientToken made of pool, slot and epoch keeps a repeated create from making a second instance. Where the script
//! has changed in between, EC2 refuses the token, and the first attempt's instance is taken. A launch may also fail
//! after it was taken; the instance is `terminated` then, which no list shows, and a look for its attempt
//! ([`Cloud::find`]) tells why.
//!
//! Who may reach the instances is the security groups' affair, which are the user's.

use std::fmt::Write as _;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::{
    AppName, BehaviorVersion, Config, Credentials, Region, SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use aws_sdk_ec2::operation::run_instances::RunInstancesOutput;
use aws_sdk_ec2::types::{
    Filter, HttpTokensState, Instance, InstanceInterruptionBehavior, InstanceMarketOptionsRequest, InstanceMetadataEndpointState,
    InstanceMetadataOptionsRequest, InstanceNetworkInterfaceSpecification, InstanceStateName, InstanceType, MarketType, ResourceType,
    ShutdownBehavior, SpotInstanceType, SpotMarketOptions, Tag, TagSpecification,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};

use super::answer::{self, Verb};
use super::http::{MOST_PAGES, fits_user_data, named};
use super::limiter::Budget;
use super::marks::{self, NONCE, POOL};
use super::{Capabilities, Class, Cloud, Error, Marks, Order, Phase, Rate, Vm, address};
use wire::{DIALECT, Wire, error};

mod wire;

/// Starting instances is what EC2 limits most: some at once, then two in a second.
pub const BUDGET: Budget = Budget { burst: 20.0, per_second: 2.0, page: 1000 };
const USER_DATA: usize = 16 << 10;
const PER_PAGE: i32 = 1000;
/// All but `terminated`: those are shown for an hour after their end.
const ALIVE: [&str; 5] = ["pending", "running", "shutting-down", "stopping", "stopped"];

/// What a pool's instances are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As in `eu-central-1`.
    pub region: String,
    /// Image.
    pub ami: String,
    /// As in `t3.micro`.
    pub instance_type: String,
    /// `None`: the region's default subnet.
    pub subnet: Option<String>,
    /// None: the default one of the network.
    pub security_groups: Vec<String>,
    /// How they are paid for.
    pub market: Market,
}

/// How instances are paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Market {
    /// At the full price.
    OnDemand,
    /// Cheaper, and taken away at any moment.
    Spot,
    /// Spot, and on demand where there is no spot capacity.
    SpotElseOnDemand,
}

/// Keys of an account.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: SecretString,
    /// Of keys that do not last.
    pub session: Option<SecretString>,
}

/// One account, region and kind of instance.
#[derive(Debug)]
pub struct Aws {
    client: Client,
    place: Place,
    /// No message may repeat them.
    secrets: Vec<SecretString>,
}

impl Aws {
    /// `base`: another address than Amazon's. `keys`: `None` for those of the environment, as its tools find them: a role of the
    /// service account, of the pod or of the machine.
    pub async fn new(http: reqwest::Client, base: Option<&str>, keys: Option<Keys>, place: Place) -> Result<Self, Error> {
        let wire = Wire::new(http);
        let region = Region::new(place.region.clone());
        let secrets = keys.iter().flat_map(|keys| keys.session.clone().into_iter().chain([keys.secret.clone()])).collect();
        let credentials = if let Some(Keys { id, secret, session }) = keys {
            let session = session.map(|s| s.expose_secret().to_owned());
            Some(SharedCredentialsProvider::new(Credentials::new(id, secret.expose_secret(), session, None, "Secret")))
        } else {
            let loader = aws_config::defaults(BehaviorVersion::latest()).region(region.clone()).http_client(wire.clone());
            loader.load().await.credentials_provider()
        };
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region)
            .http_client(wire)
            // The planner decides what follows an error.
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        config.set_app_name(AppName::new("aether").ok()).set_credentials_provider(credentials).set_endpoint_url(base.map(str::to_owned));
        Ok(Self { client: Client::from_conf(config.build()), place, secrets })
    }

    /// Every instance of these filters, all pages.
    async fn instances(&self, filters: Vec<Filter>) -> Result<Vec<Instance>, Error> {
        let mut instances = Vec::new();
        let mut next = None;
        for _ in 0..MOST_PAGES {
            let request = self.client.describe_instances().set_filters(Some(filters.clone())).max_results(PER_PAGE).set_next_token(next);
            let page = request.send().await.map_err(|e| self.error(Verb::Read, &e, ""))?;
            instances.extend(page.reservations.unwrap_or_default().into_iter().flat_map(|r| r.instances.unwrap_or_default()));
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                let whole = instances.iter().all(|i| i.instance_id().is_some());
                return if whole { Ok(instances) } else { Err(answer::malformed(&DIALECT, Verb::Read, "an instance without an id")) };
            }
        }
        Err(answer::malformed(&DIALECT, Verb::Read, "the list has no end"))
    }

    async fn vms(&self, pool: &str, more: Option<Filter>) -> Result<Vec<Vm>, Error> {
        let filters = [tagged(POOL, pool), filter("instance-state-name", &ALIVE)].into_iter().chain(more).collect();
        Ok(self.instances(filters).await?.iter().filter_map(|instance| vm(instance, pool)).collect())
    }

    async fn run(&self, order: &Order, spot: bool) -> Result<Vm, Error> {
        fits_user_data(order, USER_DATA)?;
        let Place { ami, instance_type, subnet, security_groups, .. } = &self.place;
        let mut tags = vec![tag("Name", &order.name)];
        tags.extend(marks::write(&order.marks)?.iter().map(|(mark, value)| tag(mark, value)));
        // Whoever gets at the metadata server through the proxy is refused there: it wants a token, which a proxy cannot fetch.
        let metadata = InstanceMetadataOptionsRequest::builder()
            .http_tokens(HttpTokensState::Required)
            .http_endpoint(InstanceMetadataEndpointState::Enabled)
            .http_put_response_hop_limit(1)
            .build();
        let request = self
            .client
            .run_instances()
            .min_count(1)
            .max_count(1)
            .client_token(token(&order.marks, spot))
            .image_id(ami)
            .instance_type(InstanceType::from(&**instance_type))
            .user_data(STANDARD.encode(&order.user_data))
            .metadata_options(metadata)
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .tag_specifications(TagSpecification::builder().resource_type(ResourceType::Instance).set_tags(Some(tags)).build())
            .set_instance_market_options(spot.then(one_time_spot));
        let groups = Some(security_groups.clone()).filter(|groups| !groups.is_empty());
        let request = match subnet {
            // Not every subnet gives public addresses by itself.
            Some(subnet) => request.network_interfaces(
                InstanceNetworkInterfaceSpecification::builder()
                    .device_index(0)
                    .subnet_id(subnet)
                    .set_groups(groups)
                    .associate_public_ip_address(true)
                    .delete_on_termination(true)
                    .build(),
            ),
            None => request.set_security_group_ids(groups),
        };
        let made: RunInstancesOutput = request.send().await.map_err(|e| self.error(Verb::Change, &e, &order.user_data))?;
        let instance = made.instances().first();
        if instance.is_some_and(is_over) {
            // That of the first time, and gone already: another attempt has another token.
            return Err(Error { class: Class::Transient, message: format!("{}: what was launched is gone already", DIALECT.name) });
        }
        let id = instance.and_then(Instance::instance_id).unwrap_or_default().to_owned();
        named(&DIALECT, Vm { id, marks: order.marks.clone(), phase: Phase::Starting, address: None })
    }

    /// The instance of an earlier attempt at the same order, if it is the pool's for the same slot and epoch.
    async fn namesake(&self, order: &Order) -> Result<Option<Vm>, Error> {
        let found = self.vms(&order.marks.pool, Some(tagged("Name", &order.name))).await?;
        Ok(marks::of_place(found, &order.marks))
    }

    fn error<E: aws_sdk_ec2::error::ProvideErrorMetadata>(&self, verb: Verb, failed: &wire::Failed<E>, script: &str) -> Error {
        let encoded = STANDARD.encode(script);
        let secrets: Vec<_> = [script, &encoded].into_iter().chain(self.secrets.iter().map(ExposeSecret::expose_secret)).collect();
        error(verb, failed, &secrets)
    }
}

impl Cloud for Aws {
    fn list<'a>(&'a self, pool: &'a str) -> BoxFuture<'a, Result<Vec<Vm>, Error>> {
        self.vms(pool, None).boxed()
    }

    fn find<'a>(&'a self, marks: &'a Marks) -> BoxFuture<'a, Result<Option<Vm>, Error>> {
        async {
            // Whatever its state is: how it ended is told only here.
            let found = self.instances(vec![tagged(POOL, &marks.pool), tagged(NONCE, &marks.nonce)]).await?;
            let (over, there): (Vec<_>, Vec<_>) = found.into_iter().partition(is_over);
            match marks::of_attempt(there.iter().filter_map(|instance| vm(instance, &marks.pool)).collect(), marks) {
                Some(vm) => Ok(Some(vm)),
                None => over.iter().find_map(failure).map_or(Ok(None), Err),
            }
        }
        .boxed()
    }

    fn create<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Vm, Error>> {
        async {
            // The second market has a token of its own: only a look tells whether an earlier attempt came to it.
            if self.place.market == Market::SpotElseOnDemand
                && let Some(vm) = self.namesake(order).await?
            {
                return Ok(vm);
            }
            let made = self.run(order, self.place.market != Market::OnDemand).await;
            let made = match made {
                // The account's limits for spot instances are others than those for the rest.
                Err(error) if self.place.market == Market::SpotElseOnDemand && matches!(error.class, Class::Capacity | Class::Quota) => {
                    self.run(order, false).await
                }
                made => made,
            };
            match made {
                // Perhaps for its token, and that is used by our own earlier attempt.
                Err(error) if error.class == Class::Invalid => match self.namesake(order).await {
                    Ok(found) => found.ok_or(error),
                    Err(unseen) => Err(Error { class: Class::Unknown, message: unseen.message }),
                },
                made => made,
            }
        }
        .boxed()
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match self.client.terminate_instances().instance_ids(id).send().await.map_err(|e| self.error(Verb::Change, &e, "")) {
                Err(error) if error.class == Class::NotFound => Ok(()),
                done => done.map(drop),
            }
        }
        .boxed()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { idempotent_create: true, unique_names: false, settle_seconds: 60 }
    }

    fn rate(&self) -> Rate {
        // EC2 tells nothing of its limits before they are reached.
        Rate::default()
    }
}

/// Of at most 64 characters: made of pool, slot and epoch, and of the market, which is another request.
fn token(marks: &Marks, spot: bool) -> String {
    let mut token = String::from(if spot { "s-" } else { "d-" });
    for byte in Sha256::digest(format!("{} {} {}", marks.pool, marks.slot, marks.epoch)).iter().take(30) {
        // Writing to a String does not fail.
        let _ = write!(token, "{byte:02x}");
    }
    token
}

fn one_time_spot() -> InstanceMarketOptionsRequest {
    let once = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .build();
    InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(once).build()
}

fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

fn filter(name: &str, values: &[&str]) -> Filter {
    Filter::builder().name(name).set_values(Some(values.iter().map(|value| (*value).to_owned()).collect())).build()
}

fn tagged(key: &str, value: &str) -> Filter {
    filter(&format!("tag:{key}"), &[value])
}

fn state(instance: &Instance) -> Option<&InstanceStateName> {
    instance.state().and_then(|state| state.name())
}

fn is_over(instance: &Instance) -> bool {
    state(instance) == Some(&InstanceStateName::Terminated)
}

/// Why a launch that was taken came to nothing; `None` for one that was ended by somebody, or taken away.
fn failure(instance: &Instance) -> Option<Error> {
    let code = instance.state_reason()?.code()?;
    let class = match code {
        // An internal error is as good as no capacity: another attempt may be luckier, in a while.
        "Server.InsufficientInstanceCapacity" | "Server.InternalError" => Class::Capacity,
        "Client.VolumeLimitExceeded" | "Client.InstanceInitiatedLimitExceeded" => Class::Quota,
        "Client.InternalError" | "Client.InvalidSnapshot.NotFound" => Class::Invalid,
        _ => return None,
    };
    Some(Error { class, message: format!("{}: the launch failed: {code}", DIALECT.name) })
}

fn vm(instance: &Instance, pool: &str) -> Option<Vm> {
    let made = instance.launch_time().and_then(|at| DateTime::from_timestamp(at.secs(), 0));
    let tags = instance.tags().iter().filter_map(|tag| Some((tag.key()?, tag.value()?)));
    let marks = marks::read(pool, tags, made)?;
    let phase = match state(instance) {
        Some(InstanceStateName::Pending) => Phase::Starting,
        Some(InstanceStateName::Stopping | InstanceStateName::Stopped) => Phase::Stopped,
        Some(InstanceStateName::ShuttingDown | InstanceStateName::Terminated) => Phase::Deleting,
        // What a new word means shows when the proxy is asked.
        _ => Phase::Running,
    };
    Some(Vm { id: instance.instance_id()?.to_owned(), marks, phase, address: instance.public_ip_address().and_then(address) })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
