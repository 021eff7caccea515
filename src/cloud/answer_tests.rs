use std::time::Duration;

use rstest::rstest;

use super::*;

const PLAIN: Dialect = Dialect {
    name: "Cloud",
    code: Some("/error/code"),
    message: "/error/message",
    rules: &[
        Rule { status: 403, code: "limit", says: "", class: Class::Quota },
        Rule { status: 0, code: "", says: "busy right now", class: Class::Transient },
        Rule { status: 403, code: "slow", says: "", class: Class::Throttled(None) },
    ],
    reset: Reset::Next,
};

fn now() -> Time {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (reqwest::header::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

fn class(verb: Verb, status: u16, body: &str) -> Class {
    error(&PLAIN, verb, status, &HeaderMap::new(), body.as_bytes(), &[], now()).class
}

#[rstest]
#[case(400, Class::Invalid, Class::Invalid)]
#[case(401, Class::Auth, Class::Auth)]
#[case(403, Class::Auth, Class::Auth)]
#[case(404, Class::NotFound, Class::NotFound)]
#[case(408, Class::Transient, Class::Unknown)]
#[case(409, Class::Transient, Class::Transient)]
#[case(410, Class::Invalid, Class::Invalid)]
#[case(422, Class::Invalid, Class::Invalid)]
#[case(429, Class::Throttled(None), Class::Throttled(None))]
#[case(302, Class::Transient, Class::Unknown)]
#[case(500, Class::Transient, Class::Unknown)]
#[case(503, Class::Transient, Class::Unknown)]
fn http_alone(#[case] status: u16, #[case] read: Class, #[case] change: Class) {
    assert_eq!((class(Verb::Read, status, "<html>"), class(Verb::Change, status, "")), (read, change));
}

#[rstest]
#[case(403, r#"{"error":{"code":"limit"}}"#, Class::Quota)]
#[case(500, r#"{"error":{"code":"limit"}}"#, Class::Unknown)]
#[case(403, r#"{"error":{"code":"limits"}}"#, Class::Auth)]
#[case(500, r#"{"error":{"message":"Server is BUSY right now"}}"#, Class::Transient)]
#[case(403, r#"{"error":{"code":"slow"}}"#, Class::Throttled(None))]
fn the_table_comes_first(#[case] status: u16, #[case] body: &str, #[case] expected: Class) {
    assert_eq!(class(Verb::Change, status, body), expected);
}

#[rstest]
#[case(&[("retry-after", "7")], Some(7))]
#[case(&[("retry-after", "Tue, 14 Nov 2023 22:13:30 GMT")], Some(10))]
#[case(&[("retry-after", "soon"), ("ratelimit-reset", "1700000042")], Some(42))]
#[case(&[("retry-after", "7"), ("ratelimit-reset", "1700000042")], Some(7))]
#[case(&[("ratelimit-reset", "1699999000")], Some(0))]
#[case(&[("ratelimit-reset", "99999999999999999")], None)]
#[case(&[("retry-after", "4294967295")], Some(3600))]
#[case(&[], None)]
fn how_long_to_keep_away(#[case] pairs: &[(&'static str, &str)], #[case] expected: Option<u64>) {
    let found = error(&PLAIN, Verb::Read, 429, &headers(pairs), b"", &[], now()).class;
    assert_eq!(found, Class::Throttled(expected.map(Duration::from_secs)));
    let seconds = rate(&PLAIN, true, &headers(pairs), now()).backoff_until.map(|until| (until - now()).num_seconds());
    assert_eq!(seconds.map(|s| u64::try_from(s).unwrap()), expected);
}

#[test]
fn a_limit_that_fills_up_bit_by_bit_is_not_waited_for_to_its_end() {
    let full = Dialect { reset: Reset::Full, ..PLAIN };
    let spent = headers(&[("ratelimit-remaining", "0"), ("ratelimit-reset", "1700003600")]);
    assert_eq!(rate(&full, true, &spent, now()), Rate { remaining: Some(0), backoff_until: None });
    assert_eq!(rate(&PLAIN, false, &spent, now()).backoff_until, Some(now() + TimeDelta::hours(1)));
    let some = headers(&[("ratelimit-remaining", "12"), ("ratelimit-reset", "1700003600")]);
    assert_eq!(rate(&PLAIN, false, &some, now()), Rate { remaining: Some(12), backoff_until: None });
}

#[test]
fn messages_are_short_and_without_what_was_sent() {
    let body = br#"{"error":{"code":"bad","message":"token dop_v1_abc\nand 'hunter2-hunter2' in s-1vcpu-1gb, tok=dop_v1_abc"}}"#;
    let secrets = ["dop_v1_abc", "#!/bin/sh\nBasicAuth me hunter2-hunter2\n"];
    let found = error(&PLAIN, Verb::Read, 422, &HeaderMap::new(), body, &secrets, now()).to_string();
    assert_eq!(found, "invalid: Cloud answered 422 bad: token *** and '***' in s-1vcpu-1gb, ***");
    let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "ä".repeat(5000));
    let found = error(&PLAIN, Verb::Read, 422, &HeaderMap::new(), long.as_bytes(), &[], now());
    assert_eq!(found.message.chars().count(), LONGEST_MESSAGE);
}
