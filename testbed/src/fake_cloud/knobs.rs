//! What tests may set: how the cloud behaves all the time ([`Knobs`]), and what goes wrong for some requests ([`Fault`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rate::Limit;
use super::{Call, Dialect, seconds};

/// How the cloud behaves until told otherwise. Durations are seconds in JSON. VMs keep what held when they were ordered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Knobs {
    /// From the order until the VM runs. Default 0: at once.
    #[serde(with = "seconds")]
    pub boots_after: Duration,
    /// From the order until its address is told, if that is later than its boot.
    #[serde(with = "seconds")]
    pub address_after: Duration,
    /// How old the lists are: they show what was, so new VMs are missing and deleted ones are there.
    #[serde(with = "seconds")]
    pub list_lag: Duration,
    /// From the order until a VM may be deleted; before, it is [`Refusal::Locked`].
    #[serde(with = "seconds")]
    pub locked_for: Duration,
    /// From the call to delete until the VM is gone. It stops serving at once.
    #[serde(with = "seconds")]
    pub deleted_after: Duration,
    /// From its boot until a VM dies by itself. 0: it lives.
    #[serde(with = "seconds")]
    pub lifetime: Duration,
    /// How VMs die by themselves.
    pub death: Death,
    /// How many VMs an account may have. Default: as many as there are addresses.
    pub quota: Option<usize>,
    /// Which free address is given next.
    pub reuse: Reuse,
    /// Rate limits instead of the real cloud's. An empty list: none.
    pub limits: Option<Vec<Limit>>,
    /// No page of a list holds more, however many were asked for.
    pub page_size: Option<usize>,
}

/// How a VM dies by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Death {
    /// It is there no more, as a preempted one.
    #[default]
    Vanishes,
    /// It is still there, switched off.
    Stops,
}

/// Which free address is given next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reuse {
    /// The one that has been free for longest.
    #[default]
    Late,
    /// The one that became free last: a new VM has the address of one that is just gone.
    AtOnce,
}

/// Why a request is not done. Each dialect has its own words for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No account has this credential.
    Unauthorized,
    /// The credential may only read.
    Forbidden,
    /// There is no such thing.
    NotFound(String),
    /// There is a VM of that name.
    NameTaken(String),
    /// The request makes no sense to this cloud.
    Invalid(String),
    /// The idempotency token was used for something else.
    TokenReused,
    /// Too many requests; how long to wait, in seconds.
    Throttled(u32),
    /// The account may not have more.
    Quota,
    /// The place has no more of that kind.
    NoCapacity,
    /// Something else is being done with the VM.
    Locked,
    /// An error inside the cloud, 500.
    Broken,
    /// Not to be had just now, 503.
    Unavailable,
}

/// Something that goes wrong for some requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct Fault {
    /// What goes wrong.
    pub effect: Effect,
    /// Only in this dialect.
    #[serde(default)]
    pub dialect: Option<Dialect>,
    /// Only for this account.
    #[serde(default)]
    pub account: Option<String>,
    /// Only for calls of this kind.
    #[serde(default)]
    pub call: Option<Call>,
    /// How many of those requests go well before.
    #[serde(default)]
    pub after: u32,
    /// How many of them go wrong then. Default: all.
    #[serde(default)]
    pub times: Option<u32>,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It is refused and not done.
    Refuse(Refusal),
    /// A create is accepted and comes to nothing when the VM should boot; where there are operations, they say why.
    FailLater(Refusal),
    /// It is not done, and the connection ends without a reply.
    LoseRequest,
    /// It is done, and the connection ends without a reply.
    LoseReply,
    /// A list shows what was that long ago, besides [`Knobs::list_lag`].
    Stale(#[serde(with = "seconds")] Duration),
    /// It is done, and the reply takes that long.
    Delay(#[serde(with = "seconds")] Duration),
    /// It is under way, and done only when [`FakeCloud::release`](super::FakeCloud::release) says so, whoever is still
    /// there to hear of it.
    HoldRequest,
    /// It is done, and the reply is under way until [`FakeCloud::release`](super::FakeCloud::release).
    HoldReply,
}

impl Fault {
    /// That goes wrong for every request, until told otherwise.
    pub fn always(effect: Effect) -> Self {
        Self { effect, dialect: None, account: None, call: None, after: 0, times: None }
    }

    /// Only for calls of this kind.
    pub fn on(self, call: Call) -> Self {
        Self { call: Some(call), ..self }
    }

    /// Only in this dialect.
    pub fn of(self, dialect: Dialect) -> Self {
        Self { dialect: Some(dialect), ..self }
    }

    /// Only that often.
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Only after that many requests.
    pub fn after(self, requests: u32) -> Self {
        Self { after: requests, ..self }
    }

    /// Whether such a request goes wrong; counts it.
    fn strikes(&mut self, dialect: Dialect, account: &str, call: Call) -> bool {
        let is_meant = self.dialect.is_none_or(|only| only == dialect)
            && self.account.as_ref().is_none_or(|only| only == account)
            && self.call.is_none_or(|only| only == call);
        if !is_meant {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        match &mut self.times {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }
}

/// What goes wrong with one request: the first fault that strikes. Faults that are used up are dropped.
pub(super) fn strike(faults: &mut Vec<Fault>, dialect: Dialect, account: &str, call: Call) -> Option<Effect> {
    let struck = faults.iter_mut().find_map(|fault| fault.strikes(dialect, account, call).then(|| fault.effect.clone()));
    faults.retain(|fault| fault.times != Some(0));
    struck
}

#[cfg(test)]
mod tests {
    use super::*;

    fn struck(faults: &mut Vec<Fault>, call: Call) -> bool {
        strike(faults, Dialect::Hetzner, "a", call).is_some()
    }

    #[test]
    fn a_fault_strikes_as_often_as_it_should_and_after_as_many() {
        let mut faults = vec![Fault::always(Effect::LoseReply).on(Call::Create).after(1).times(2)];
        let seen: Vec<bool> = (0..5).map(|_| struck(&mut faults, Call::Create)).collect();
        assert_eq!(seen, [false, true, true, false, false]);
        assert!(faults.is_empty());
    }

    #[test]
    fn a_fault_strikes_only_what_is_meant() {
        let mut faults = vec![Fault::always(Effect::LoseReply).on(Call::Create).times(1)];
        assert!(!struck(&mut faults, Call::List));
        assert_eq!(strike(&mut faults, Dialect::Hetzner, "b", Call::Create), Some(Effect::LoseReply));
        let mut faults = vec![Fault { account: Some("a".to_owned()), ..Fault::always(Effect::LoseRequest).of(Dialect::Ec2) }];
        assert!(!struck(&mut faults, Call::Create));
        assert_eq!(strike(&mut faults, Dialect::Ec2, "b", Call::Create), None);
        assert_eq!(strike(&mut faults, Dialect::Ec2, "a", Call::Create), Some(Effect::LoseRequest));
    }

    #[test]
    fn the_first_fault_that_strikes_is_the_one_that_counts() {
        let mut faults = vec![Fault::always(Effect::LoseReply).times(1), Fault::always(Effect::LoseRequest).times(1)];
        assert_eq!(strike(&mut faults, Dialect::Gce, "a", Call::Get), Some(Effect::LoseReply));
        assert_eq!(strike(&mut faults, Dialect::Gce, "a", Call::Get), Some(Effect::LoseRequest));
        assert_eq!(strike(&mut faults, Dialect::Gce, "a", Call::Get), None);
    }

    #[test]
    fn knobs_are_seconds_in_json() {
        let knobs: Knobs = serde_json::from_str(r#"{"boots_after": 1.5, "quota": 3, "reuse": "at_once"}"#).unwrap();
        assert_eq!(knobs, Knobs { boots_after: Duration::from_millis(1500), quota: Some(3), reuse: Reuse::AtOnce, ..Knobs::default() });
        assert!(serde_json::from_str::<Knobs>(r#"{"boots_after": -1}"#).is_err());
        assert!(serde_json::from_str::<Knobs>(r#"{"boots_after": 1e12}"#).is_err());
        assert!(serde_json::from_str::<Knobs>(r#"{"boot_after": 1}"#).is_err());
    }
}
