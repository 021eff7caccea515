//! The filters of Compute Engine's lists, as far as instances need them: comparisons that all have to hold.

use std::str::FromStr;

use super::knobs::Refusal;
use super::vm::Vm;

/// `name`, `status`, `zone` or `labels.KEY`, then `=`, `!=`, `eq`, `ne` or `:`, then a value; several with `AND` or side
/// by side in parentheses. Anything else is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter(Vec<Comparison>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Comparison {
    field: String,
    negative: bool,
    /// `None`: whatever, but there.
    value: Option<String>,
}

impl Filter {
    pub fn selects(&self, vm: &Vm, status: &str) -> bool {
        self.0.iter().all(|Comparison { field, negative, value }| {
            let found = match field.as_str() {
                "name" => Some(vm.order.name.as_str()),
                "status" => Some(status),
                "zone" => Some(vm.order.place.as_str()),
                label => vm.order.tags.get(label.trim_start_matches("labels.")).map(String::as_str),
            };
            let is_so = found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found));
            is_so != *negative
        })
    }
}

impl FromStr for Filter {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let parts = text.split(['(', ')']).flat_map(|part| part.split(" AND ")).map(str::trim);
        let parts = parts.filter(|part| !part.is_empty() && *part != "AND");
        let comparisons = parts.map(comparison).collect::<Option<_>>();
        comparisons.map(Self).ok_or_else(|| Refusal::Invalid(format!("Invalid value for field 'filter': '{text}'.")))
    }
}

fn comparison(text: &str) -> Option<Comparison> {
    let operators = [("!=", true, false), (" ne ", true, false), ("=", false, false), (" eq ", false, false), (":", false, true)];
    let (field, value, negative, loose) = operators
        .iter()
        .find_map(|(operator, negative, loose)| text.split_once(operator).map(|(f, v)| (f.trim(), v.trim(), *negative, *loose)))?;
    let is_field = matches!(field, "name" | "status" | "zone") || field.strip_prefix("labels.").is_some_and(|key| !key.is_empty());
    let value = value.trim_matches('"');
    let is_value = value.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    match (loose, value) {
        (true, "*") if is_field => Some(Comparison { field: field.to_owned(), negative, value: None }),
        (false, value) if is_field && is_value => Some(Comparison { field: field.to_owned(), negative, value: Some(value.to_owned()) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Vec<(String, bool, Option<String>)>> {
        let Filter(comparisons) = text.parse().ok()?;
        Some(comparisons.into_iter().map(|it| (it.field, it.negative, it.value)).collect())
    }

    #[test]
    fn filters_are_understood_in_all_their_spellings() {
        let pool = || ("labels.pool".to_owned(), false, Some("a".to_owned()));
        let slot = || ("labels.slot".to_owned(), true, Some("3".to_owned()));
        for text in ["labels.pool=a", "labels.pool = \"a\"", "(labels.pool=a)", "labels.pool eq a"] {
            assert_eq!(parsed(text), Some(vec![pool()]), "{text}");
        }
        for text in ["labels.pool=a AND labels.slot!=3", "(labels.pool=a) (labels.slot != 3)", "(labels.pool=a) AND (labels.slot ne 3)"] {
            assert_eq!(parsed(text), Some(vec![pool(), slot()]), "{text}");
        }
        assert_eq!(parsed("labels.pool:*"), Some(vec![("labels.pool".to_owned(), false, None)]));
        assert_eq!(parsed(""), Some(vec![]));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in ["labels.pool", "labels.=a", "colour=red", "labels.pool=a OR labels.pool=b", "labels.pool:a"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
