//! `new:old`, the documented way to say how traffic is shared.

use std::fmt;
use std::str::FromStr;

/// Largest number either side may have: the largest weight of a Gateway API backend.
pub const MAX_PART: u32 = 1_000_000;

/// Traffic shares of the new and the old version; never 0:0.
///
/// Two ratios are equal when they mean the same share: `2:6 == 1:3`.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    new: u32,
    old: u32,
}

/// Why a text is no ratio.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no ratio: write new:old, two whole numbers from 0 to {MAX_PART}, not both 0, for example 1:3")]
pub struct RatioError(String);

impl Ratio {
    /// All traffic on the old version.
    pub const ALL_OLD: Self = Self { new: 0, old: 1 };
    /// All traffic on the new version.
    pub const ALL_NEW: Self = Self { new: 1, old: 0 };

    /// Checked constructor: `None` for 0:0 or a part above [`MAX_PART`].
    pub fn new(new: u32, old: u32) -> Option<Self> {
        (new <= MAX_PART && old <= MAX_PART && new + old > 0).then_some(Self { new, old })
    }

    /// Parts in lowest terms, `(new, old)`: what weights are made of.
    pub fn reduced(self) -> (u32, u32) {
        let divisor = gcd(self.new, self.old);
        (self.new / divisor, self.old / divisor)
    }

    /// The new version carries everything (`x:0`).
    pub fn is_all_new(self) -> bool {
        self.old == 0
    }

    /// The old version carries everything (`0:x`).
    pub fn is_all_old(self) -> bool {
        self.new == 0
    }

    /// Share of the new version, 0 to 1.
    pub fn share(self) -> f64 {
        f64::from(self.new) / f64::from(self.new + self.old)
    }

    /// The new version's share is larger here than there.
    pub fn exceeds(self, other: Self) -> bool {
        u64::from(self.new) * u64::from(other.new + other.old) > u64::from(other.new) * u64::from(self.new + self.old)
    }
}

/// Greatest common divisor; of 0 and a number, that number.
pub fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl PartialEq for Ratio {
    fn eq(&self, other: &Self) -> bool {
        self.reduced() == other.reduced()
    }
}
impl Eq for Ratio {}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.new, self.old)
    }
}

impl FromStr for Ratio {
    type Err = RatioError;

    fn from_str(text: &str) -> Result<Self, RatioError> {
        let part = |s: &str| {
            let s = s.trim_matches(' ');
            (!s.is_empty() && s.len() <= 7 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u32>().ok()).flatten()
        };
        text.split_once(':')
            .and_then(|(new, old)| Self::new(part(new)?, part(old)?))
            .ok_or_else(|| RatioError(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("1:3", 1, 3)]
    #[case(" 2 : 6 ", 1, 3)]
    #[case("0:7", 0, 1)]
    #[case("1000000:1", 1_000_000, 1)]
    #[case("007:1", 7, 1)]
    fn parses(#[case] text: &str, #[case] new: u32, #[case] old: u32) {
        assert_eq!(text.parse::<Ratio>().unwrap().reduced(), (new, old));
    }

    #[rstest]
    #[case("1:")]
    #[case(":1")]
    #[case("-1:2")]
    #[case("+1:2")]
    #[case("0:0")]
    #[case("1:0:0")]
    #[case("1000001:1")]
    #[case("1")]
    #[case("")]
    #[case("a:b")]
    #[case("1:1.5")]
    #[case("99999999999999999999:1")]
    fn refuses(#[case] text: &str) {
        let said = text.parse::<Ratio>().unwrap_err().to_string();
        assert!(said.contains("new:old"), "{said}");
    }

    proptest! {
        #[test]
        fn prints_what_it_parses(new in 0u32..=MAX_PART, old in 1u32..=MAX_PART) {
            let ratio = Ratio::new(new, old).unwrap();
            prop_assert_eq!(ratio.to_string().parse::<Ratio>().unwrap(), ratio);
        }

        #[test]
        fn any_text_is_taken_without_panic(text in ".*") {
            let _ = text.parse::<Ratio>();
        }
    }
}
