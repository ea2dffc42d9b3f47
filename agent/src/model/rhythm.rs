//! Whether a thread's releases come on a beat, and on which.
//!
//! Releases are seen with everything that happens to them: one that goes through a pipe or a
//! socket is late by the wait of its sender, frames are skipped, a signal comes in between. Two
//! ways of keeping time are known, and either makes a thread periodic:
//!
//! - **A clock** (absolute times, a device, interval timers): releases lie near the lines of a
//!   lattice, however late some of them are. The lattice is found as the strongest frequency around
//!   one over the median interval, and fitted by regression on the numbers of the beats.
//! - **A pause** (relative sleeps and time-outs): each release sets the next one, so errors add up
//!   and there is no lattice, but three quarters of the intervals are alike.
//!
//! Each costs about 20 µs for 64 releases; whether a beat that is known goes on is seen for a tenth of
//! that ([`goes_on`]).
//!
//! What is called aperiodic on purpose: several releases a beat (bursts, two clocks of similar
//! rates), a beat of which more than about 40 % are missing, and one whose releases are mostly
//! late by a large part of the period. A burst whose gaps are whole multiples of the shortest
//! and that leaves out less than a third of the beats is told as a beat with skipped frames: from
//! its releases alone it is one.

#[cfg(test)]
mod tests;

use std::f64::consts::TAU;

use downbeat_api::Rhythm;

/// The latest releases that are looked at.
pub const KEPT: usize = 64;

/// A beat is told from this many releases on.
pub const MIN_PERIODIC: usize = 16;

/// … and its absence from this many on, since few random times often lie near some lattice.
pub const MIN_APERIODIC: usize = 32;

/// An interval longer than this many median ones is a pause, before which another beat may hold.
const PAUSE: f64 = 8.0;

/// The longest time looked at, in median intervals. It bounds the work for bursty releases.
const MAX_SPAN: f64 = 128.0;

/// Shortest and longest period looked for, in median intervals. The median is a period unless
/// most releases are late or half of them are missing.
const RANGE: (f64, f64) = (0.65, 1.4);

/// Turns over the whole span from one frequency that is tried to the next. A lattice between two
/// of them still shows 90 % of its strength.
const STEP: f64 = 0.5;

/// Least share of the releases that keep time together (the length of their mean phase).
const MIN_STRENGTH: f64 = 0.58;

/// From this strength on a lattice is beyond doubt. Below it, intervals that are alike say more,
/// since errors that add up make a weak lattice of a slightly wrong period.
const SURE_STRENGTH: f64 = 0.9;

/// Least strength for `n` releases: √(this / n). Random times are as strong on one of a hundred
/// lattices with a chance of about 1 in 10,000.
const CHANCE: f64 = 13.0;

/// A lattice that is weak, since late releases lie all over it, holds as well when this share of
/// the releases …
const MIN_ON_TIME: f64 = 0.6;

/// … lies within this many periods of the typical place. Of random times, a sixth does.
const ON_TIME: f64 = 0.08;

/// Most releases, as a share, that are not the first of their beat.
const MAX_EXTRA: f64 = 0.15;

/// Most beats, as a share, that have no release.
const MAX_SKIPPED: f64 = 0.42;

/// On a beat that is only every 2nd to 8th of the lattice, releases have at most this strength:
/// else they come in a pattern, or from two clocks.
const MAX_PATTERN: f64 = 0.45;

/// The slowest such beat, in beats of the lattice.
const SLOWEST: usize = 8;

/// How early a release may be, in periods, and still belong to its beat. The rest of the period
/// is for the late ones.
const EARLY: f64 = 0.25;

/// Intervals within this part of the typical one are like it.
const ALIKE: f64 = 0.1;

/// Least share of intervals that are alike where each release sets the next one.
const MIN_ALIKE: f64 = 0.75;

/// The rhythm of the latest [`KEPT`] of `releases`: `CLOCK_MONOTONIC` nanoseconds, ascending,
/// oldest first. Nothing as long as there are too few to tell ([`MIN_PERIODIC`],
/// [`MIN_APERIODIC`]).
#[must_use]
pub fn rhythm(releases: &[u64]) -> Option<Rhythm> {
    let latest = releases.get(releases.len().saturating_sub(KEPT)..).unwrap_or(releases);
    let first = *latest.first()?;
    // Relative times of up to 104 days are exact as f64.
    let times: Vec<f64> = latest.iter().map(|ns| ns.saturating_sub(first) as f64).collect();
    if times.len() < MIN_PERIODIC {
        return None;
    }
    let typical = median(&mut intervals(&times));
    let aperiodic = Rhythm::Aperiodic { median_ns: typical as u64 };
    let verdict = (times.len() >= MIN_APERIODIC).then_some(aperiodic);
    let times = after_pause(&times, typical);
    let typical = median(&mut intervals(times));
    let from = times.partition_point(|time| *time < times[times.len() - 1] - MAX_SPAN * typical);
    let times = &times[from..];
    if times.len() < MIN_PERIODIC || typical < 1.0 {
        return verdict;
    }
    let lattice = clock(times, typical);
    if lattice.strength >= SURE_STRENGTH {
        return lattice.beat.or(verdict);
    }
    pause(times, typical).or(lattice.beat).or(verdict)
}

/// Most that the mean period of the latest releases may differ from a beat that goes on, as a share.
const SAME: f64 = 0.005;

/// Least share of intervals that are whole multiples of a beat that goes on.
const MOSTLY: f64 = 0.9;

/// Whether a beat that was found in earlier releases plainly holds for the latest [`KEPT`] as well.
/// Where it may or may not, [`rhythm`] tells.
#[must_use]
pub fn goes_on(known: &Rhythm, releases: &[u64]) -> bool {
    let Rhythm::Periodic { period_ns, .. } = known else { return false };
    let latest = releases.get(releases.len().saturating_sub(KEPT)..).unwrap_or(releases);
    if latest.len() < MIN_PERIODIC || *period_ns == 0 {
        return false;
    }
    let period = *period_ns as f64;
    let (mut sum, mut beats, mut alike) = (0.0, 0.0, 0.0);
    for two in latest.windows(2) {
        let interval = two[1].saturating_sub(two[0]) as f64;
        let count = (interval / period).round();
        if count >= 1.0 && (interval - count * period).abs() <= ALIKE * period {
            sum += interval;
            beats += count;
            alike += 1.0;
        }
    }
    alike >= MOSTLY * (latest.len() - 1) as f64 && (sum / beats - period).abs() <= SAME * period
}

fn intervals(times: &[f64]) -> Vec<f64> {
    times.windows(2).map(|two| two[1] - two[0]).collect()
}

/// The median; 0 of nothing.
fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    if values.is_empty() {
        return 0.0;
    }
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// The times since the last pause, if they are enough.
fn after_pause(times: &[f64], typical: f64) -> &[f64] {
    let pause = times.windows(2).rposition(|two| two[1] - two[0] > PAUSE * typical);
    let after = pause.map_or(times, |before| &times[before + 1..]);
    if after.len() >= MIN_PERIODIC { after } else { times }
}

/// Beats that were met, and how.
struct Beats {
    /// Releases that were not the first of their beat, as a share of all.
    extra: f64,
    /// Beats without a release, as a share of all.
    skipped: f64,
    /// The greatest strength of the beats on one that is a few times slower.
    pattern: f64,
}

/// The lattice that the times lie on best.
struct Lattice {
    /// Share of the times that lie on it.
    strength: f64,
    /// The rhythm; absent where the lattice is weak, or where it is no beat: several times a
    /// line, too few of its lines, or a pattern.
    beat: Option<Rhythm>,
}

fn clock(times: &[f64], typical: f64) -> Lattice {
    let Some((period, phases)) = strongest(times, typical).and_then(|peak| fit(times, peak)) else {
        return Lattice { strength: 0.0, beat: None };
    };
    let strength = agreement(&phases);
    let no_beat = Lattice { strength, beat: None };
    let mut off: Vec<f64> = phases.iter().map(|phase| phase - phase.round()).collect();
    let typical = median(&mut off);
    off.iter_mut().for_each(|off| *off = (*off - typical).abs());
    let count = times.len() as f64;
    let on_time = off.iter().filter(|off| **off <= ON_TIME).count() as f64 / count;
    let sharp = on_time >= MIN_ON_TIME && times.len() >= MIN_APERIODIC;
    if strength < MIN_STRENGTH.max((CHANCE / count).sqrt()) && !sharp {
        return no_beat;
    }
    let Beats { extra, skipped, pattern } = beats(&phases);
    if extra > MAX_EXTRA || skipped > MAX_SKIPPED || pattern > MAX_PATTERN {
        return no_beat;
    }
    let (period_ns, jitter_ns) = (period.round() as u64, (median(&mut off) * period) as u64);
    Lattice { strength, beat: Some(Rhythm::Periodic { period_ns, jitter_ns, skipped }) }
}

/// How much the phases agree: 1 when all are equal but for whole numbers, about 1/√n for random
/// ones.
fn agreement(phases: &[f64]) -> f64 {
    let (sin, cos) = phases.iter().fold((0.0, 0.0), |(sin, cos), phase| {
        let (s, c) = (TAU * phase).sin_cos();
        (sin + s, cos + c)
    });
    f64::hypot(sin, cos) / phases.len() as f64
}

fn beats(phases: &[f64]) -> Beats {
    let beats: Vec<i64> = phases.iter().map(|phase| (phase + EARLY).floor() as i64).collect();
    let count = phases.len() as f64;
    let met = 1.0 + beats.windows(2).filter(|two| two[0] < two[1]).count() as f64;
    let all = 1.0 + (beats[beats.len() - 1] - beats[0]) as f64;
    let strength = |slower: usize| {
        let mut met = [0.0; SLOWEST];
        for beat in &beats {
            met[beat.rem_euclid(slower as i64) as usize] += 1.0;
        }
        let (sin, cos) = (0..slower).fold((0.0, 0.0), |(sin, cos), place| {
            let (s, c) = (TAU * place as f64 / slower as f64).sin_cos();
            (sin + met[place] * s, cos + met[place] * c)
        });
        f64::hypot(sin, cos) / count
    };
    let pattern = (2..=SLOWEST).map(strength).fold(0.0, f64::max);
    Beats { extra: 1.0 - met / count, skipped: 1.0 - met / all, pattern }
}

/// A frequency, and the typical phase of the times on it.
#[derive(Clone, Copy)]
struct Peak {
    /// Cycles per nanosecond.
    frequency: f64,
    /// Cycles, from the first time on.
    phase: f64,
}

/// The strongest frequency within [`RANGE`]. Every time is a vector that turns with the frequency;
/// from one frequency to the next each turns by its own fixed angle, so trying one costs a complex
/// product per time.
fn strongest(times: &[f64], typical: f64) -> Option<Peak> {
    const LANES: usize = 8;
    type Vectors = [[f32; LANES]; KEPT / LANES];
    let (first, last) = (times.first()?, times.last()?);
    let lowest = 1.0 / (RANGE.1 * typical);
    let step = STEP / (last - first);
    let steps = ((1.0 / (RANGE.0 * typical) - lowest) / step).ceil() as u32;
    // Unused places stay at zero and add nothing. A few hundred products in f32 are exact enough
    // to find the peak by.
    let (mut re, mut im): (Vectors, Vectors) = Default::default();
    let (mut turn_re, mut turn_im): (Vectors, Vectors) = Default::default();
    for (index, time) in times.iter().enumerate() {
        let (row, lane) = (index / LANES, index % LANES);
        let turn = |frequency: f64| TAU as f32 * ((time - first) * frequency).fract() as f32;
        (im[row][lane], re[row][lane]) = turn(lowest).sin_cos();
        (turn_im[row][lane], turn_re[row][lane]) = turn(step).sin_cos();
    }
    let mut best = (0.0_f32, 0, 0.0_f32);
    for tried in 0..=steps {
        let (mut sum_re, mut sum_im) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        for row in 0..KEPT / LANES {
            let (x, y, cos, sin) = (re[row], im[row], turn_re[row], turn_im[row]);
            for lane in 0..LANES {
                sum_re[lane] += x[lane];
                sum_im[lane] += y[lane];
                re[row][lane] = x[lane] * cos[lane] - y[lane] * sin[lane];
                im[row][lane] = x[lane] * sin[lane] + y[lane] * cos[lane];
            }
        }
        // By halves, which vectorises; a plain sum waits for each addition.
        let sum =
            |l: [f32; LANES]| ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7]));
        let (x, y) = (sum(sum_re), sum(sum_im));
        let power = x * x + y * y;
        if power > best.0 {
            best = (power, tried, y.atan2(x));
        }
    }
    Some(Peak { frequency: lowest + step * f64::from(best.1), phase: f64::from(best.2) / TAU })
}

/// The period of the lattice near a peak, and the place of each time on it in periods, with the
/// mean of those on the beat at a whole number.
fn fit(times: &[f64], peak: Peak) -> Option<(f64, Vec<f64>)> {
    let Peak { frequency, phase } = peak;
    let place = |time: &f64| (time - times[0]) * frequency - phase;
    let mut phases: Vec<f64> = times.iter().map(place).collect();
    let mut period = 0.0;
    // The wider first pass brings in what the coarse frequency left aside.
    for near in [0.35, 0.25, 0.25] {
        let (mut count, mut beats, mut sum, mut squares, mut products) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (time, phase) in times.iter().zip(&phases) {
            let beat = phase.round();
            let on_beat = f64::from((phase - beat).abs() < near);
            count += on_beat;
            beats += on_beat * beat;
            sum += on_beat * time;
            squares += on_beat * beat * beat;
            products += on_beat * beat * time;
        }
        // At most 64 numbers below 200 beats: nothing is lost in the differences.
        period = (count * products - beats * sum) / (count * squares - beats * beats);
        if !(period.is_finite() && period >= 1.0) {
            return None;
        }
        let (mean_time, mean_beat) = (sum / count, beats / count);
        for (phase, time) in phases.iter_mut().zip(times) {
            *phase = (time - mean_time) / period + mean_beat;
        }
    }
    Some((period, phases))
}

/// Intervals that are mostly alike; of the others, whole multiples are skipped beats.
fn pause(times: &[f64], typical: f64) -> Option<Rhythm> {
    let intervals = intervals(times);
    let alike = |period: f64| {
        let beats = move |interval: f64| (interval / period).round();
        intervals.iter().filter_map(move |interval| {
            let count = beats(*interval);
            let off = (interval - count * period).abs();
            (count >= 1.0 && off <= ALIKE * period).then_some((*interval, count))
        })
    };
    let period =
        median(&mut alike(typical).map(|(interval, beats)| interval / beats).collect::<Vec<_>>());
    if period < 1.0 {
        return None;
    }
    let met = alike(period).count() as f64;
    let single = alike(period).filter(|(_, beats)| *beats == 1.0).count() as f64;
    let all: f64 = alike(period).map(|(_, beats)| beats).sum();
    let skipped = 1.0 - met / all.max(1.0);
    if single < MIN_ALIKE * intervals.len() as f64 || skipped > MAX_SKIPPED {
        return None;
    }
    let mut off: Vec<f64> = intervals
        .iter()
        .map(|interval| (interval - (interval / period).round().max(1.0) * period).abs())
        .collect();
    let jitter = median(&mut off);
    Some(Rhythm::Periodic { period_ns: period.round() as u64, jitter_ns: jitter as u64, skipped })
}
