//! How many proxies may go at once, as arithmetic.

use std::time::Duration;

use super::model::Requests;
use super::wish::Wish;

/// Slots in flight at once, whatever batch and rolling say: with ids and addresses as long as any cloud's that is about half
/// of the 256 KiB that a status may have.
pub const MOST_IN_FLIGHT: u32 = 250;

/// The limits that recycling keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Proxies that must be available after every voluntary delete (rule I1).
    pub floor: u32,
    /// Slots in flight at once (rule I2).
    pub batch: u32,
    /// VMs at once (rule I3).
    pub cap: u32,
    /// Replacements may come before the old ones go.
    pub has_surge: bool,
    /// What minAvailable asked for, where the floor is lower.
    pub asked: Option<u32>,
}

impl Budget {
    /// The limits of a pool. Not rolling: all aged proxies may go at once, and nothing holds them.
    ///
    /// minAvailable is kept as it stands where that is possible: with room for surge up to minScaling, without it up to
    /// minScaling - 1, as documented. More than that would defer recycling for ever.
    pub fn of(wish: &Wish) -> Self {
        let gentle = Self::gentle(wish);
        if wish.rolling.enabled { gentle } else { Self { floor: 0, batch: u32::MAX, asked: None, ..gentle } }
    }

    /// The limits that hold even without rolling, for what can wait: proxies made from an older template.
    pub fn gentle(wish: &Wish) -> Self {
        let has_surge = wish.rolling.enabled && wish.max_scaling > wish.min_scaling;
        let most = if has_surge { wish.min_scaling } else { wish.min_scaling.saturating_sub(1) };
        let wanted = wish.rolling.min_available;
        Self {
            floor: wanted.min(most),
            batch: wish.rolling.batch_size.max(1),
            cap: wish.max_scaling,
            has_surge,
            asked: (wanted > most).then_some(wanted),
        }
    }

    /// Whether that many available proxies may become one fewer.
    pub fn lets_one_go(&self, available: u32) -> bool {
        available > self.floor
    }

    /// How many of a full pool may be in flight at once: what the floor spares and what surge has room for, up to a batch.
    pub fn width(&self, wish: &Wish) -> u32 {
        let spare = wish.min_scaling.saturating_sub(self.floor);
        let surge = if self.has_surge { self.cap.saturating_sub(wish.min_scaling) } else { 0 };
        self.batch.min(spare + surge).clamp(1, MOST_IN_FLIGHT)
    }

    /// How long the renewal of the whole pool takes when one replacement takes that long.
    pub fn renewal(&self, wish: &Wish, replacement: Duration) -> Duration {
        replacement.saturating_mul(wish.min_scaling.div_ceil(self.width(wish)))
    }

    /// Requests a second that lists take while something is in flight, when all pages are asked for again after `pause`.
    pub fn listing(wish: &Wish, requests: Requests, pause: Duration) -> f64 {
        let pages = usize::try_from(wish.min_scaling).unwrap_or(usize::MAX) / requests.page.max(1) + 1;
        f64::from(u32::try_from(pages).unwrap_or(u32::MAX)) / pause.as_secs_f64()
    }

    /// How long the renewal of the whole pool takes for its requests: an order and a deletion for each, beside the lists.
    /// `None`: the lists alone take all that the credential may ask, other pools of it not counted.
    pub fn asking(wish: &Wish, requests: Requests, pause: Duration) -> Option<Duration> {
        let left = requests.per_second - Self::listing(wish, requests, pause);
        Duration::try_from_secs_f64(2.0 * f64::from(wish.min_scaling) / left).ok().filter(|_| left > 0.0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pool::wish::Defaults;
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    pub fn wish(min: u32, max: u32, enabled: bool, min_available: u32, batch: u32) -> Wish {
        let spec = json!({
            "minScaling": min, "maxScaling": max, "kubernetes": {"image": "x"}, "proxy": {"authSecretRef": {"name": "p"}},
            "rolling": {"enabled": enabled, "minAvailable": min_available, "batchSize": batch}, "ageLimit": "1h",
        });
        Wish::parse("p", &serde_json::from_value(spec).unwrap(), &Defaults::default()).unwrap()
    }

    #[rstest]
    #[case::as_asked(5, 5, 3, 3, None)]
    #[case::lowered_as_documented(3, 3, 3, 2, Some(3))]
    #[case::lowered_from_far_above(5, 5, 10, 4, Some(10))]
    #[case::a_pool_of_one_can_rotate(1, 1, 1, 0, Some(1))]
    #[case::honoured_with_surge(3, 4, 3, 3, None)]
    #[case::not_even_surge_helps(3, 4, 5, 3, Some(5))]
    #[case::nothing_wanted(0, 0, 3, 0, Some(3))]
    #[case::no_floor_asked(5, 5, 0, 0, None)]
    fn floors(#[case] min: u32, #[case] max: u32, #[case] asked: u32, #[case] floor: u32, #[case] lowered: Option<u32>) {
        let budget = Budget::of(&wish(min, max, true, asked, 2));
        assert_eq!((budget.floor, budget.asked), (floor, lowered));
    }

    #[test]
    fn without_rolling_nothing_is_held() {
        let budget = Budget::of(&wish(5, 7, false, 3, 2));
        assert_eq!(budget, Budget { floor: 0, batch: u32::MAX, cap: 7, has_surge: false, asked: None });
    }

    #[rstest]
    #[case(5, 5, 3, 2, 9)] // waves of 2, 2, 1
    #[case(5, 5, 4, 2, 15)] // the floor lets one go at a time
    #[case(5, 7, 5, 2, 9)] // surge instead
    #[case(100, 100, 3, 2, 150)]
    fn renewal_in_minutes(#[case] min: u32, #[case] max: u32, #[case] floor: u32, #[case] batch: u32, #[case] minutes: u64) {
        let wish = wish(min, max, true, floor, batch);
        assert_eq!(Budget::of(&wish).renewal(&wish, Duration::from_mins(3)), Duration::from_mins(minutes));
    }

    #[rstest]
    // One page of 50 in 10 s takes 0.1 of 1 a second; what is left does 2 for each.
    #[case(45, 1.0, 50, Some(100))]
    // 21 pages: 2.1 of 3.1.
    #[case(1000, 3.1, 50, Some(2000))]
    #[case(1000, 2.1, 50, None)]
    #[case(10_000, 1.0, 50, None)]
    #[case(0, 1.0, 50, Some(0))]
    fn requests_take_time_too(#[case] min: u32, #[case] per_second: f64, #[case] page: usize, #[case] seconds: Option<u64>) {
        let asking = Budget::asking(&wish(min, min, true, 0, 2), Requests { burst: 100.0, per_second, page }, Duration::from_secs(10));
        assert_eq!(asking.map(|t| format!("{:.0}", t.as_secs_f64())), seconds.map(|s| s.to_string()));
    }

    proptest! {
        /// The deadlock of the original: a full pool that may never let one go, and has no room to make one first.
        #[test]
        fn a_full_pool_can_always_begin(min in 1u32..50, surge in 0u32..5, asked in 0u32..60, batch in 1u32..9) {
            let budget = Budget::of(&wish(min, min + surge, true, asked, batch));
            prop_assert!(budget.lets_one_go(min) || surge > 0);
            prop_assert!(budget.lets_one_go(min + 1) || surge == 0);
        }
    }
}
