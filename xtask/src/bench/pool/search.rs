//! The highest rate at which a server is in time.

use anyhow::Result;

use super::client::Told;

/// Share of requests that must be in time.
pub const IN_TIME: f64 = 0.99;

/// From one rate to the next, upwards.
const STEP: f64 = 1.6;

/// Halvings of the last step: the rate is then known to some 6 %.
const HALVINGS: usize = 3;

/// A rate and what came of it.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// Requests a second.
    pub rate: f64,
    pub told: Told,
}

/// The highest rate that `probe` finds in time, from `first` on upwards or downwards; nothing where
/// the server is in time at none.
pub fn highest(first: f64, mut probe: impl FnMut(f64) -> Result<Told>) -> Result<Option<Capacity>> {
    let mut best: Option<Capacity> = None;
    let mut in_time = |rate: f64, best: &mut Option<Capacity>| -> Result<bool> {
        // Once more before it is given up: one pause of the machine is no overload.
        for _ in 0..2 {
            let told = probe(rate)?;
            if told.attainment >= IN_TIME {
                *best = Some(Capacity { rate, told });
                return Ok(true);
            }
            // So far from it that it was no pause.
            if told.attainment < 0.9 {
                break;
            }
        }
        Ok(false)
    };
    let mut low = first;
    while !in_time(low, &mut best)? {
        low /= STEP;
        if low < 1.0 {
            return Ok(None);
        }
    }
    // Where it went down, the step above is known to be too much.
    let mut high = low * STEP;
    if (low - first).abs() < f64::EPSILON {
        while in_time(high, &mut best)? {
            low = high;
            high *= STEP;
        }
    }
    for _ in 0..HALVINGS {
        let middle = (low * high).sqrt();
        if in_time(middle, &mut best)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn told(attainment: f64) -> Told {
        Told {
            asked: 100,
            answered: 100,
            in_time: 100,
            refused: 0,
            failed: 0,
            lost: 0,
            wrong: 0,
            unsent: 0,
            attainment,
            goodput: 0.0,
            p50_us: 0.0,
            p99_us: 0.0,
            p999_us: 0.0,
            max_us: 0.0,
            statuses: BTreeMap::new(),
            note: None,
        }
    }

    fn found(first: f64, limit: f64) -> Option<f64> {
        let probe = |rate: f64| Ok(told(if rate <= limit { 1.0 } else { 0.5 }));
        highest(first, probe).unwrap().map(|it| it.rate)
    }

    #[test]
    fn the_rate_is_found_from_below_and_from_above() {
        for first in [20.0, 1000.0, 40_000.0] {
            let rate = found(first, 1234.0).unwrap();
            assert!(rate <= 1234.0 && rate > 1234.0 * 0.93, "{rate} from {first}");
        }
        assert_eq!(found(100.0, 0.5), None);
    }

    #[test]
    fn one_pause_is_no_overload() {
        let mut count = 0;
        let probe = |rate: f64| {
            count += 1;
            Ok(told(if rate <= 1000.0 && count != 1 { 1.0 } else { 0.95 }))
        };
        let rate = highest(800.0, probe).unwrap().unwrap().rate;
        assert!(rate > 930.0, "{rate}");
    }
}
