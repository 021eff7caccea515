//! How a pod's application behaves, read from the annotations of the pod.
//!
//! An annotation whose name ends in a version, such as `error-rate.2.0.0`, speaks to pods of that image tag only: a template
//! is the same for all versions that are made from it.
//!
//! Parsed once per change of the annotations into plain values. A bad value is an error with a text that ends up in the
//! pod's status, so that a typo in a test is seen in `kubectl get pods` instead of being ignored.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Options;

/// What the annotations the pod server listens to start with.
pub const PREFIX: &str = "testbed.aether.dev/";

/// Parts per million: shares are counted in integers, so that 7 % of 100 requests is 7 and never 6.
const MILLION: u64 = 1_000_000;

/// What one pod's application does, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// What the application calls itself; by default the tag of the first container's image.
    pub version: String,
    /// How long an answer takes.
    pub latency: Duration,
    /// How long every 50th answer takes: 2 % of them, so that the 99th percentile is surely this.
    pub latency_p99: Option<Duration>,
    /// Share of answers with status 500, in parts per million.
    pub error_ppm: u64,
    /// How long after its start the application begins to err.
    pub error_after: Duration,
    /// How long after its start the application is ready; `None` is never.
    pub readiness_delay: Option<Duration>,
    /// Period with which readiness toggles, once it is ready.
    pub flap: Option<Duration>,
    /// How long after its start the container exits with code 1.
    pub crash_after: Option<Duration>,
    /// The image cannot be pulled: the container never starts.
    pub image_pull_error: bool,
    /// How long the application accepts connections after SIGTERM.
    pub shutdown: Duration,
    /// The application leaves at SIGTERM and cuts the requests in flight.
    pub drop_on_shutdown: bool,
    /// Series that its page of metrics shows besides those of requests.
    pub more_series: u32,
    /// Every request is counted by its path, reads of the page of metrics as well.
    pub counts_everything: bool,
}

impl Behaviour {
    /// Reads the annotations, given with their prefix cut off, of a pod whose first container runs `image`.
    pub fn parse(annotations: &BTreeMap<String, String>, image: &str, options: &Options) -> Result<Self, String> {
        let mut behaviour = Self {
            version: tag(image).to_owned(),
            latency: Duration::ZERO,
            latency_p99: None,
            error_ppm: 0,
            error_after: Duration::ZERO,
            readiness_delay: Some(options.readiness_delay),
            flap: None,
            crash_after: None,
            image_pull_error: false,
            shutdown: options.shutdown,
            drop_on_shutdown: false,
            more_series: 0,
            counts_everything: false,
        };
        let of_versions = |(name, _): &(&String, &String)| name.contains('.');
        let for_all = annotations.iter().filter(|a| !of_versions(a));
        for (name, text) in for_all.chain(annotations.iter().filter(of_versions)) {
            let (property, version) = name.split_once('.').unwrap_or((name, tag(image)));
            // What is for others must be right all the same.
            let mut for_others = behaviour.clone();
            let of = if version == tag(image) { &mut behaviour } else { &mut for_others };
            of.set(property, text).map_err(|wanted| format!("annotation {PREFIX}{name}: {text:?} is no {wanted}"))?;
        }
        Ok(behaviour)
    }

    /// Sets one property; the error names what was wanted.
    fn set(&mut self, name: &str, text: &str) -> Result<(), &'static str> {
        match name {
            "version" if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) => {
                return Err("version (visible ASCII, at least one character)");
            }
            "version" => text.clone_into(&mut self.version),
            "latency" => self.latency = duration(text)?,
            "latency-p99" => self.latency_p99 = Some(duration(text)?),
            "error-rate" => self.error_ppm = share(text)?,
            "error-after" => self.error_after = duration(text)?,
            "readiness-delay" if text == "never" => self.readiness_delay = None,
            "readiness-delay" => self.readiness_delay = Some(duration(text)?),
            "flap" => self.flap = Some(duration(text)?).filter(|period| !period.is_zero()),
            "crash-after" => self.crash_after = Some(duration(text)?),
            "image-pull-error" => self.image_pull_error = switch(text)?,
            "shutdown" => self.shutdown = duration(text)?,
            "more-series" => self.more_series = text.parse().ok().filter(|n| *n <= 10_000).ok_or("number from 0 to 10000")?,
            "counts-everything" => self.counts_everything = switch(text)?,
            "drop-on-shutdown" => self.drop_on_shutdown = switch(text)?,
            _ => return Err("annotation the pod server knows"),
        }
        Ok(())
    }

    /// The last part of `shutdown`, in which every answer closes its connection. A connection that is closed just as its
    /// client sends a request loses that request; so only what is hardly in use must be left to be closed while idle.
    pub fn last_call(&self) -> Duration {
        (self.shutdown / 2).min(Duration::from_millis(500))
    }

    /// Whether the request with this number (from 0) is answered with an error, at a share given in parts per million:
    /// a fixed pattern, so that any number of requests in a row holds its exact share of errors, rounded down.
    pub fn errs(ppm: u64, number: u64) -> bool {
        (number + 1).saturating_mul(ppm) / MILLION > number.saturating_mul(ppm) / MILLION
    }

    /// How long the answer to the request with this number (from 0) takes.
    pub fn latency_of(latency: Duration, p99: Option<Duration>, number: u64) -> Duration {
        p99.filter(|_| number % 50 == 49).unwrap_or(latency)
    }
}

/// The tag of an image reference, `latest` if it has none.
fn tag(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    let name = name.rsplit('/').next().unwrap_or(name);
    name.split_once(':').map_or("latest", |(_, tag)| tag)
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    const WANTED: &str = "duration (for example 20ms, 1.5s or 2m, at most a day)";
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "" if number == "0" => 1.0,
        _ => return Err(WANTED),
    };
    let seconds = number.parse::<f64>().map_err(|_| WANTED)? * scale;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err(WANTED);
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn share(text: &str) -> Result<u64, &'static str> {
    const WANTED: &str = "share from 0 to 1";
    let share: f64 = text.parse().map_err(|_| WANTED)?;
    if !(0.0..=1.0).contains(&share) {
        return Err(WANTED);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a million, see above")]
    Ok((share * 1e6).round() as u64)
}

fn switch(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "switch (true or false)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Behaviour, String> {
        let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Behaviour::parse(&annotations, "registry.example:5000/shop/web:1.2.3@sha256:abc", &Options::default())
    }

    #[test]
    fn defaults_come_from_the_image_and_the_options() {
        let plain = parse(&[]).unwrap();
        assert_eq!(plain.version, "1.2.3");
        assert_eq!(plain.readiness_delay, Some(Duration::from_secs(1)));
        assert_eq!(plain.shutdown, Duration::from_secs(3));
        assert_eq!(tag("registry.example:5000/web"), "latest");
        assert_eq!(tag("web:2"), "2");
    }

    #[test]
    fn every_annotation_is_read() {
        let all = parse(&[
            ("version", "9"),
            ("latency", "20ms"),
            ("latency-p99", "0.2s"),
            ("error-rate", "0.07"),
            ("error-after", "2m"),
            ("readiness-delay", "never"),
            ("flap", "5s"),
            ("crash-after", "0"),
            ("image-pull-error", "true"),
            ("shutdown", "1h"),
            ("drop-on-shutdown", "true"),
            ("more-series", "100"),
            ("counts-everything", "true"),
        ])
        .unwrap();
        let wanted = Behaviour {
            version: "9".into(),
            latency: Duration::from_millis(20),
            latency_p99: Some(Duration::from_millis(200)),
            error_ppm: 70_000,
            error_after: Duration::from_mins(2),
            readiness_delay: None,
            flap: Some(Duration::from_secs(5)),
            crash_after: Some(Duration::ZERO),
            image_pull_error: true,
            shutdown: Duration::from_hours(1),
            drop_on_shutdown: true,
            more_series: 100,
            counts_everything: true,
        };
        assert_eq!(all, wanted);
    }

    #[test]
    fn an_annotation_for_a_version_is_for_that_version() {
        let all = parse(&[("error-rate", "0.1"), ("error-rate.1.2.3", "0.5"), ("latency.2.0.0", "1s")]).unwrap();
        assert_eq!((all.error_ppm, all.latency), (500_000, Duration::ZERO));
        assert_eq!(parse(&[("error-rate", "0.1"), ("error-rate.2.0.0", "0.5")]).unwrap().error_ppm, 100_000);
        assert!(parse(&[("latency.2.0.0", "fast")]).unwrap_err().contains("latency.2.0.0"));
    }

    #[test]
    fn bad_values_are_named() {
        for (name, text) in [
            ("latency", "fast"),
            ("latency", "-1s"),
            ("latency", "NaNs"),
            ("latency", "infs"),
            ("latency", "12"),
            ("error-rate", "1.1"),
            ("error-rate", "NaN"),
            ("flap", ""),
            ("crash-after", "10 s"),
            ("crash-after", "é"),
            ("image-pull-error", "yes"),
            ("version", "a b"),
            ("versoin", "1"),
        ] {
            let error = parse(&[(name, text)]).unwrap_err();
            assert!(error.contains(name) && error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn error_shares_are_exact() {
        for (ppm, requests, wanted) in [(290_000, 100, 29), (70_000, 100, 7), (1_000_000, 5, 5), (0, 50, 0), (1, 1_000_000, 1)] {
            let errors = (0..requests).filter(|n| Behaviour::errs(ppm, *n)).count();
            assert_eq!(errors, wanted, "{ppm} ppm of {requests}");
        }
    }

    #[test]
    fn one_answer_in_fifty_is_slow() {
        let (usual, p99) = (Duration::from_millis(1), Duration::from_millis(9));
        let slow = (0..1000).filter(|n| Behaviour::latency_of(usual, Some(p99), *n) == p99).count();
        assert_eq!(slow, 20);
        assert_eq!(Behaviour::latency_of(usual, None, 49), usual);
    }
}
