//! Labels, as Hetzner and Kubernetes have them, and the selectors for them.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::knobs::Refusal;

/// Requirements that labels have to meet, all of them. An empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Missing,
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
}

impl Selector {
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|Requirement { key, test }| match (test, labels.get(key)) {
            (Test::Exists, value) => value.is_some(),
            (Test::Missing, value) => value.is_none(),
            (Test::In(values), value) => value.is_some_and(|value| values.contains(value)),
            (Test::NotIn(values), value) => value.is_none_or(|value| !values.contains(value)),
        })
    }
}

impl FromStr for Selector {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let mut depth = 0_i32;
        let parts = text.split(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            c == ',' && depth == 0
        });
        let parts = parts.map(str::trim).filter(|part| !part.is_empty());
        parts.map(requirement).collect::<Option<_>>().map(Self).ok_or_else(|| Refusal::Invalid(format!("label_selector {text}")))
    }
}

fn requirement(said: &str) -> Option<Requirement> {
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    let set = |text: &str| -> Option<BTreeSet<String>> {
        Some(text.trim().strip_prefix('(')?.strip_suffix(')')?.split(',').map(|value| value.trim().to_owned()).collect())
    };
    let (key, test) = if let Some((key, value)) = said.split_once("!=") {
        (key, Test::NotIn(one(value)))
    } else if let Some((key, value)) = said.split_once("==").or_else(|| said.split_once('=')) {
        (key, Test::In(one(value)))
    } else if let Some((key, values)) = said.split_once(" notin ") {
        (key, Test::NotIn(set(values)?))
    } else if let Some((key, values)) = said.split_once(" in ") {
        (key, Test::In(set(values)?))
    } else if let Some(key) = said.strip_prefix('!') {
        (key, Test::Missing)
    } else {
        (said, Test::Exists)
    };
    let key = key.trim();
    let values = match &test {
        Test::In(values) | Test::NotIn(values) => values.iter().all(|value| is_value(value)),
        Test::Exists | Test::Missing => true,
    };
    (is_key(key) && values).then(|| Requirement { key: key.to_owned(), test })
}

/// An optional DNS name and a slash, then 1 to 63 characters.
pub(super) fn is_key(key: &str) -> bool {
    let is_domain = |domain: &str| domain.len() <= 253 && domain.split('.').all(|part| !part.is_empty() && is_value(part));
    match key.split_once('/') {
        Some((domain, name)) => is_domain(domain) && !name.is_empty() && is_value(name),
        None => !key.is_empty() && is_value(key),
    }
}

/// At most 63 letters, digits, dashes, underscores and dots; the first and the last a letter or digit.
pub(super) fn is_value(value: &str) -> bool {
    let is_end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    value.len() <= 63 && value.chars().all(is_inner) && is_end(value.chars().next()) && is_end(value.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str) -> bool {
        let labels = [("pool", "a"), ("slot", "3"), ("aether.dev/epoch", "0")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        selector.parse::<Selector>().unwrap().selects(&labels)
    }

    #[test]
    fn selectors_select_what_they_say() {
        for selector in
            ["", "pool=a", "pool==a,slot=3", "pool", "!zone", "pool!=b", "slot in (1, 3)", "pool=a,slot notin (1,2)", "aether.dev/epoch=0"]
        {
            assert!(selects(selector), "{selector}");
        }
        for selector in ["pool=b", "pool=a,slot=4", "zone", "!pool", "pool!=a", "slot in (1,2)", "slot notin (3)", "zone=a"] {
            assert!(!selects(selector), "{selector}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for selector in ["=a", "pool=a b", "slot in 1", "pool=-a", "a/b/c=d"] {
            assert!(selector.parse::<Selector>().is_err(), "{selector}");
        }
    }
}
