//! How long a dead worker waits for its restart.

use std::time::Duration;

/// After the first death.
pub const FIRST: Duration = Duration::from_millis(200);

/// However often it died.
pub const LONGEST: Duration = Duration::from_secs(30);

/// This part of a delay is random, so that workers that died together do not return together.
const JITTER: f64 = 0.25;

/// The delay after `deaths` deaths in a row (from 1), with a random number from 0 to 1.
#[must_use]
pub fn delay(deaths: u32, random: f64) -> Duration {
    let doublings = deaths.saturating_sub(1).min(16);
    let whole = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    whole.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_doubles_up_to_the_longest() {
        let steps: Vec<_> = (1..=10).map(|n| delay(n, 0.0).as_millis()).collect();
        assert_eq!(steps, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    }

    proptest! {
        #[test]
        fn it_stays_in_its_bounds_and_never_shrinks(deaths: u32, random in 0.0..1.0f64) {
            let now = delay(deaths, random);
            prop_assert!(now >= FIRST.mul_f64(1.0 - JITTER) && now <= LONGEST);
            prop_assert!(delay(deaths.saturating_add(1), random) >= now);
        }

        #[test]
        fn jitter_takes_a_quarter_at_most(deaths in 1..40u32, random in -1.0..2.0f64) {
            let (now, whole) = (delay(deaths, random), delay(deaths, 0.0));
            prop_assert!(now <= whole && now >= whole.mul_f64(1.0 - JITTER));
        }
    }
}
