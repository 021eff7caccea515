//! Pages of lists: by number, and by a cursor.

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};

use axum::extract::Query;
use axum::http::Uri;

use super::knobs::Refusal;
use super::vm::Vm;

/// The query of a request. Parameters that a dialect does not know are refused: a filter that is not heeded would lie.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Refusal> {
    Query::try_from_uri(uri).map(|Query(query)| query).map_err(|error| Refusal::Invalid(error.body_text()))
}

/// The body of a request.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::Invalid(error.to_string()))
}

/// An id in a path. What is no number is not the id of anything.
pub(super) fn number(id: &str) -> Result<u64, Refusal> {
    id.parse().map_err(|_| Refusal::NotFound(id.to_owned()))
}

/// Names that some clients give as numbers.
pub(super) fn text<'a, D: Deserializer<'a>>(from: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(from)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        other => Err(D::Error::custom(format!("{other} is neither a name nor a number"))),
    }
}

/// What a page that has a number says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub number: usize,
    pub size: usize,
    pub last: usize,
    pub total: usize,
}

/// One page of the VMs, by its number from 1. At most `largest` may be asked for, and no page holds more than `cap`.
pub(super) fn numbered(
    vms: Vec<&Vm>,
    number: Option<usize>,
    size: Option<usize>,
    (usual, largest): (usize, usize),
    cap: Option<usize>,
) -> Result<(Vec<&Vm>, Page), Refusal> {
    let (number, size) = (number.unwrap_or(1), size.unwrap_or(usual));
    if number == 0 || size == 0 || size > largest {
        return Err(Refusal::Invalid(format!("page {number} of {size}: pages count from 1 and hold 1 to {largest}")));
    }
    let size = cap.map_or(size, |cap| size.min(cap.max(1)));
    let total = vms.len();
    let page = Page { number, size, last: total.div_ceil(size).max(1), total };
    Ok((vms.into_iter().skip((number - 1).saturating_mul(size)).take(size).collect(), page))
}

/// The VMs after the one with the id `cursor`, and the cursor of the next page, if there is one.
pub(super) fn after<'a>(
    vms: Vec<&'a Vm>,
    cursor: Option<&str>,
    size: usize,
    cap: Option<usize>,
) -> Result<(Vec<&'a Vm>, Option<String>), Refusal> {
    let last: u64 = cursor.map_or(Ok(0), str::parse).map_err(|_| Refusal::Invalid("no such page".to_owned()))?;
    let size = cap.map_or(size, |cap| size.min(cap)).max(1);
    let mut rest = vms.into_iter().filter(|vm| vm.id > last);
    let page: Vec<&'a Vm> = rest.by_ref().take(size).collect();
    let next = rest.next().and(page.last()).map(|vm| vm.id.to_string());
    Ok((page, next))
}
