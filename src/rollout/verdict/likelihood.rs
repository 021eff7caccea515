//! The likelihoods behind the tests, computed so that a billion requests lose no digits.
//!
//! Own code of about 80 lines, because the crates at hand (puruspe, statrs) give the incomplete beta function itself; what is
//! wanted here is its ratio to a likelihood, where both are far below the smallest number and cancel.

/// Smaller limits mean "no failure at all".
const NONE_ALLOWED: f64 = 1e-12;

/// Processes are cut here, far above any bar, so that sums stay finite.
const LN_CEILING: f64 = 40.0;

/// Above so many requests in one process counts are scaled down to it. A process taken to a power below 1 is still one
/// (Jensen), it only speaks more softly.
const EXACT_UP_TO: f64 = 1_073_741_824.0;

/// Likelihood of all rates above the limit, weighted by Beta(1, b) cut at the limit, against the limit itself:
/// `b * B(k+1, n-k+b) * P(rate > limit) / (limit^k * (1-limit)^(n-k+b))`.
///
/// `b = 1/(4*limit) - 1` expects a fault at about four times the limit. From a limit of 1/8 on that would favour rates near
/// 1 (and end at 1/4), so there the prior is flat: `b = 1`.
pub fn over_limit(all: u64, bad: u64, limit: f64) -> f64 {
    if limit >= 1.0 {
        // No rate is above it.
        return 1.0;
    }
    let (all, bad) = (real(all), real(bad.min(all)));
    if limit.is_nan() || limit < NONE_ALLOWED {
        return if bad > 0.0 { LN_CEILING.exp() } else { 1.0 };
    }
    let scale = if all > EXACT_UP_TO { EXACT_UP_TO / all } else { 1.0 };
    let prior = (0.25 / limit - 1.0).max(1.0);
    let bad_shape = bad * scale + 1.0;
    let good_shape = (all - bad) * scale + prior;
    if 1.0 - limit < (good_shape + 1.0) / (bad_shape + good_shape + 2.0) {
        // Seen less than the limit: the powers of the tail and of the likelihood cancel.
        let tail = beta_fraction(good_shape, bad_shape, 1.0 - limit);
        return bounded_exp((prior * limit * tail / good_shape).ln());
    }
    let ln_front = ln_beta_front(bad_shape, good_shape, limit);
    let below = (ln_front.exp() * beta_fraction(bad_shape, good_shape, limit) / bad_shape).clamp(0.0, 1.0);
    bounded_exp(prior.ln() + limit.ln() - ln_front + (-below).ln_1p())
}

/// `ln(x^a * (1-x)^b / B(a, b))` as a distance from the mean, so that a billion requests lose no digits.
fn ln_beta_front(a: f64, b: f64, x: f64) -> f64 {
    let sum = a + b;
    let distance = deviance(a, sum * x) + deviance(b, sum * (1.0 - x));
    0.5 * (a * (b / sum) / std::f64::consts::TAU).ln() - distance + stirling_error(sum) - stirling_error(a) - stirling_error(b)
}

/// `seen * ln(seen / expected) + expected - seen`, without cancellation where the two are close.
fn deviance(seen: f64, expected: f64) -> f64 {
    let off = (expected - seen) / seen;
    if off.abs() > 0.01 {
        return seen * ((seen / expected).ln() + off);
    }
    // off - ln(1 + off) as its series.
    let mut power = off * off;
    let mut sum = 0.0;
    for i in 2_u32..14 {
        sum += power / f64::from(i);
        power *= -off;
    }
    seen * sum
}

/// What Stirling's formula leaves out of the log of the gamma function.
fn stirling_error(mut x: f64) -> f64 {
    let mut error = 0.0;
    while x < 16.0 {
        error += (x + 0.5) * x.recip().ln_1p() - 1.0;
        x += 1.0;
    }
    let square = x * x;
    error + (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / 1680.0 / square) / square) / square) / x
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), evaluated after Lentz. Fast for `x` below the
/// mean; needs about the root of the larger shape near it.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let nonzero = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let mut front = 1.0;
    let mut back = 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0));
    let mut value = back;
    for i in 1_u32..200_000 {
        let m = f64::from(i);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            back = 1.0 / nonzero(1.0 + term * back);
            front = nonzero(1.0 + term / front);
            change = back * front;
            value *= change;
        }
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

/// `exp`, cut so that sums stay finite.
pub fn bounded_exp(ln: f64) -> f64 {
    ln.min(LN_CEILING).exp()
}

/// Counts as a real number; above 2^53 the last digits do not matter.
#[allow(clippy::cast_precision_loss, reason = "the last digits of such a number of requests do not matter")]
pub fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    /// The integral itself, summed on a grid of the logarithm of the rate.
    fn integral(all: u64, bad: u64, limit: f64) -> f64 {
        const CELLS: u32 = 100_000;
        let (all, bad, prior) = (real(all), real(bad), (0.25 / limit - 1.0).max(1.0));
        let ln_limit = limit.ln();
        let cell = |i: u32| {
            let rate = (ln_limit * (1.0 - (f64::from(i) + 0.5) / f64::from(CELLS))).exp();
            let ln_ratio = bad * (rate / limit).ln() + (all - bad + prior - 1.0) * ((-rate).ln_1p() - (-limit).ln_1p());
            (prior / (1.0 - limit)) * ln_ratio.exp() * rate * -ln_limit / f64::from(CELLS)
        };
        (0..CELLS).map(cell).sum()
    }

    #[rstest]
    #[case(0, 0, 0.01)]
    #[case(100, 0, 0.01)]
    #[case(100, 1, 0.01)]
    #[case(100, 6, 0.01)]
    #[case(20, 20, 0.2)]
    #[case(10_000, 140, 0.01)]
    #[case(10_000, 100, 0.01)]
    #[case(10_000, 60, 0.01)]
    #[case(50, 3, 0.001)]
    #[case(200, 60, 0.25)]
    #[case(30, 29, 0.9)]
    #[case(30, 1, 0.999)]
    fn is_the_integral(#[case] all: u64, #[case] bad: u64, #[case] limit: f64) {
        let (fast, slow) = (over_limit(all, bad, limit), integral(all, bad, limit));
        assert!((fast / slow - 1.0).abs() < 1e-4, "{fast} {slow}");
    }

    #[test]
    fn the_ends_of_the_scale() {
        assert!(over_limit(100, 0, 0.0) <= 1.0);
        assert!(over_limit(100, 1, 0.0) > 1e6);
        for bad in [0, 50, 100] {
            assert!((over_limit(100, bad, 1.0) - 1.0).abs() < f64::EPSILON);
        }
        assert!(over_limit(1_000_000_000, 1_000_000_000, 0.01) > 1e6);
        assert!(over_limit(1_000_000_000, 0, 0.01) < 1e-6);
    }

    proptest! {
        /// What makes it an e-process: at the limit itself, one more request leaves the expectation where it was.
        #[test]
        fn expects_nothing_at_the_limit(all in 0_u64..1_000_000_000, off in -4.0..4.0_f64, ln_limit in -12.0..-0.01_f64) {
            let limit = ln_limit.exp();
            let mean = real(all) * limit;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bad = ((mean + off * mean.sqrt()).max(0.0) as u64).min(all);
            let now = over_limit(all, bad, limit);
            prop_assume!(now < 1e15);
            let next = limit * over_limit(all + 1, bad + 1, limit) + (1.0 - limit) * over_limit(all + 1, bad, limit);
            prop_assert!((next / now - 1.0).abs() < 1e-5, "{now} {next}");
        }

        #[test]
        fn rises_with_failures(all in 1_u64.., bad in 0_u64.., limit in 0.0..=1.0_f64) {
            let bad = bad % all;
            let (fewer, more) = (over_limit(all, bad, limit), over_limit(all, bad + 1, limit));
            prop_assert!(fewer.is_finite() && fewer >= 0.0 && more >= fewer * (1.0 - 1e-6), "{fewer} {more}");
        }
    }
}
