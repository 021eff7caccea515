//! How many proxies may go at once, as arithmetic.

use std::time::Duration;

use super::wish::Wish;

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
        self.batch.min(spare + surge).max(1)
    }

    /// How long the renewal of the whole pool takes when one replacement takes that long.
    pub fn renewal(&self, wish: &Wish, replacement: Duration) -> Duration {
        replacement.saturating_mul(wish.min_scaling.div_ceil(self.width(wish)))
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
