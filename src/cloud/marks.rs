//! Marks as a VM carries them: one list of words and values, written as labels or as flat tags.
//!
//! The narrowest cloud decides what a value may be: Compute Engine's labels are lower-case, and no label
//! is longer than 63. Instead of an encoding per cloud, marks that do not fit are refused before anything
//! is created. Reading is total: a VM of the pool whose other marks cannot be read is still one of the
//! pool's ([`Marks::unreadable`]), so that it counts and somebody looks at it.

use chrono::DateTime;

use super::{Class, Error, Marks, Vm};
use crate::api::Time;

/// How every mark begins.
pub const PREFIX: &str = "aether-";
/// The mark that says whose a VM is.
pub const POOL: &str = "aether-pool";
/// The mark that an attempt is looked up by.
pub const NONCE: &str = "aether-nonce";
const SLOT: &str = "aether-slot";
const EPOCH: &str = "aether-epoch";
const TEMPLATE: &str = "aether-template";
const BORN: &str = "aether-born";

/// The slot of a VM that says whose it is and not which.
pub const UNREADABLE: u32 = u32::MAX;

/// Longest value of a mark.
const LONGEST: usize = 63;

impl Marks {
    /// The marks of a VM that carries the pool's UID and nothing else that can be read.
    pub fn unreadable(pool: &str, born: Time) -> Self {
        Self { pool: pool.into(), slot: UNREADABLE, epoch: 0, nonce: String::new(), template: String::new(), born }
    }

    /// Whether they tell which VM of the pool this is.
    pub fn readable(&self) -> bool {
        self.slot != UNREADABLE
    }
}

/// What is written on a VM, in a fixed order; refused if a value does not fit every cloud.
pub fn write(marks: &Marks) -> Result<[(&'static str, String); 6], Error> {
    let written = [
        (POOL, marks.pool.clone()),
        (SLOT, marks.slot.to_string()),
        (EPOCH, marks.epoch.to_string()),
        (NONCE, marks.nonce.clone()),
        (TEMPLATE, marks.template.clone()),
        (BORN, marks.born.timestamp_millis().to_string()),
    ];
    match written.iter().find(|(_, value)| !fits(value)) {
        Some((mark, _)) => Err(Error { class: Class::Invalid, message: format!("{mark} has a value that cannot be a label") }),
        None if !marks.readable() => Err(Error { class: Class::Invalid, message: "there is no such slot".into() }),
        None => Ok(written),
    }
}

/// Whether every cloud takes it for a label's value, and whether it says anything.
pub fn fits(value: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    value.len() <= LONGEST && value.chars().all(inside) && ends(value.chars().next()) && ends(value.chars().last())
}

/// As a tag of a cloud that has only words: `aether-slot:3`.
pub fn flat(mark: &str, value: &str) -> String {
    format!("{mark}:{value}")
}

/// The mark and the value of such a tag; of another's tag without a colon nothing.
pub fn unflat(tag: &str) -> Option<(&str, &str)> {
    tag.split_once(':')
}

/// What a VM's labels say: `None` if it is not the pool's. `made`: when, as the cloud says, for a VM that does not say it itself.
pub fn read<'a>(pool: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>, made: Option<Time>) -> Option<Marks> {
    let labels: Vec<_> = labels.into_iter().collect();
    // Twice the same mark with two values says nothing.
    let one = |mark: &str| {
        let mut values = labels.iter().filter(|(m, _)| *m == mark).map(|(_, value)| *value);
        let first = values.next()?;
        values.all(|other| other == first).then_some(first)
    };
    let ours = labels.iter().any(|(mark, value)| *mark == POOL && *value == pool);
    let whole = || {
        Some(Marks {
            pool: one(POOL)?.into(),
            slot: one(SLOT)?.parse().ok().filter(|slot| *slot != UNREADABLE)?,
            epoch: one(EPOCH)?.parse().ok()?,
            nonce: one(NONCE)?.into(),
            template: one(TEMPLATE)?.into(),
            born: DateTime::from_timestamp_millis(one(BORN)?.parse().ok()?)?,
        })
    };
    ours.then(|| whole().unwrap_or_else(|| Marks::unreadable(pool, made.unwrap_or_default())))
}

/// Of what was found for an attempt the VM that is its own; of several, which no cloud should have, the one with the lowest id.
pub fn of_attempt(found: Vec<Vm>, marks: &Marks) -> Option<Vm> {
    found.into_iter().filter(|vm| vm.marks.pool == marks.pool && vm.marks.nonce == marks.nonce).min_by(|a, b| a.id.cmp(&b.id))
}

/// Of what was found under an order's name the VM that is the pool's for the same slot and epoch, whichever attempt made it.
pub fn of_place(found: Vec<Vm>, marks: &Marks) -> Option<Vm> {
    found.into_iter().find(|vm| (vm.marks.slot, vm.marks.epoch) == (marks.slot, marks.epoch))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "6f0c3a52-7a54-4d33-9a3e-2f8b1c0d9e11";

    fn marks() -> Marks {
        let born = DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
        Marks { pool: UID.into(), slot: 3, epoch: 12, nonce: "n0nce".into(), template: "ab12".into(), born }
    }

    fn as_read(marks: &Marks, change: impl Fn(&mut Vec<(String, String)>)) -> Option<Marks> {
        let mut labels: Vec<_> = write(marks).unwrap().into_iter().map(|(m, v)| (m.to_owned(), v)).collect();
        change(&mut labels);
        read(UID, labels.iter().map(|(m, v)| (&**m, &**v)), None)
    }

    #[test]
    fn what_is_written_is_read_among_others_labels() {
        let with_others = |labels: &mut Vec<(String, String)>| {
            labels.insert(0, ("team".into(), "search".into()));
            labels.push(("aether-pool".into(), UID.into()));
        };
        assert_eq!(as_read(&marks(), with_others), Some(marks()));
    }

    #[test]
    fn a_vm_of_the_pool_is_never_lost_and_a_strangers_never_taken() {
        for at in 1..6 {
            for value in [None, Some(""), Some("x y"), Some("-1"), Some("99999999999999999999")] {
                let read = as_read(&marks(), |labels| match value {
                    None => drop(labels.remove(at)),
                    Some(value) => labels.push((labels[at].0.clone(), value.into())),
                });
                assert_eq!(read, Some(Marks::unreadable(UID, Time::default())), "{at} {value:?}");
            }
        }
        assert_eq!(as_read(&marks(), |labels| drop(labels.remove(0))), None);
        assert_eq!(as_read(&marks(), |labels| labels[0].1 = "another".into()), None);
    }

    #[test]
    fn marks_that_do_not_fit_are_refused() {
        let long = "a".repeat(64);
        for nonce in ["", "A", "a b", "-a", "a-", "a:b", "ä", long.as_str()] {
            assert_eq!(write(&Marks { nonce: nonce.into(), ..marks() }).unwrap_err().class, Class::Invalid, "{nonce}");
        }
        assert_eq!(write(&Marks { slot: UNREADABLE, ..marks() }).unwrap_err().class, Class::Invalid);
        assert!(write(&Marks { nonce: long[1..].into(), ..marks() }).is_ok());
    }

    proptest! {
        #[test]
        fn flat_tags_are_read_as_they_were_written(
            slot in 0..u32::MAX,
            epoch: u32,
            nonce in "[a-z0-9][a-z0-9_-]{0,30}[a-z0-9]",
            at in 0_i64..4_000_000_000_000,
        ) {
            let marks = Marks { slot, epoch, nonce, born: DateTime::from_timestamp_millis(at).unwrap(), ..marks() };
            let tags: Vec<_> = write(&marks).unwrap().iter().map(|(m, v)| flat(m, v)).collect();
            prop_assert_eq!(read(UID, tags.iter().filter_map(|tag| unflat(tag)), None), Some(marks));
        }

        #[test]
        fn whatever_a_label_says_reading_ends(labels in proptest::collection::vec(("aether-[a-z]{1,8}", "\\PC*"), 0..8)) {
            let read = read(UID, labels.iter().map(|(m, v)| (&**m, &**v)), None);
            prop_assert_eq!(read.is_some(), labels.iter().any(|(m, v)| m == POOL && v == UID));
        }
    }
}
