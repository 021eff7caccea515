//! Durations as Kubernetes users write them: `30s`, `5m`, `1h30m`, `500ms`.

use std::fmt::Write;
use std::time::Duration;

/// What a duration field accepts, for CEL rules.
pub const PATTERN: &str = "^([0-9]{1,7}(ms|s|m|h)){1,4}$";

/// The CEL rule of a duration field, and what it says when it is broken.
pub const RULE: &str = "self.matches('^([0-9]{1,7}(ms|s|m|h)){1,4}$')";
/// See [`RULE`].
pub const HELP: &str = "must be a duration such as 30s, 5m or 1h30m";

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration: write for example 30s, 5m or 1h30m")]
pub struct DurationError(String);

/// Parses what [`PATTERN`] accepts: up to four parts of up to seven digits, which keeps every sum of them in range.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let fail = || DurationError(text.chars().take(40).collect());
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        parts += 1;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().ok().filter(|_| digits <= 7).ok_or_else(fail)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(fail()),
        };
        total += Duration::from_millis(number.checked_mul(millis).ok_or_else(fail)?);
        rest = tail;
    }
    if !(1..=4).contains(&parts) {
        return Err(fail());
    }
    Ok(total)
}

/// Prints a duration the way [`parse`] reads it.
pub fn print(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 3_600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (duration.subsec_millis().into(), "ms")];
    let mut text = String::new();
    for (value, unit) in parts.into_iter().filter(|(value, _)| *value > 0) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{value}{unit}");
    }
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("30s", 30_000)]
    #[case("1h30m", 5_400_000)]
    #[case("500ms", 500)]
    #[case("0s", 0)]
    fn parses(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(parse(text).unwrap(), Duration::from_millis(millis));
    }

    #[rstest]
    #[case("")]
    #[case("5")]
    #[case("-5s")]
    #[case("5d")]
    #[case("s")]
    #[case("99999999999999999999h")]
    #[case("12345678h")]
    #[case("1s1s1s1s1s")]
    fn refuses(#[case] text: &str) {
        assert!(parse(text).is_err());
    }

    proptest! {
        #[test]
        fn reads_what_it_prints(millis in 0u64..30_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&print(duration)).unwrap(), duration);
        }
    }
}
