//! Generated releases. Every seed is fixed, so that a share such as "1 in 200" is exact.

use fastrand::Rng;
use proptest::prelude::*;

use super::*;

const MS: f64 = 1e6;
const PERIODS: [f64; 6] = [5.0, 10.0, 16.67, 20.0, 33.3, 40.0];
/// A thread of 40 ms has no more within 3 s.
const LEAST: usize = 75;
const SEEDS: u64 = 60;

/// How releases come, all as shares of the period unless said otherwise.
#[derive(Clone, Copy, Debug, Default)]
struct Clocked {
    /// Standard deviation of what is always there.
    jitter: f64,
    /// Share of the releases that are late …
    late: f64,
    /// … by up to this.
    late_by: f64,
    /// Share of the beats without a release.
    skip: f64,
    /// Share of the beats with another release at any time.
    extra: f64,
    /// Share of the releases that come together with the next.
    bunched: f64,
    /// By how much the period grows over 64 beats.
    drift: f64,
    /// The errors of all releases before count as well.
    add_up: bool,
}

fn normal(random: &mut Rng) -> f64 {
    (0..12).map(|_| random.f64()).sum::<f64>() - 6.0
}

/// At least `LEAST` beats of `period` milliseconds, from some time after boot on.
fn releases(period: f64, how: Clocked, seed: u64) -> Vec<u64> {
    let mut random = Rng::with_seed(seed);
    let boot = 1e14 + random.f64() * 1e12;
    let (mut beat, mut error, mut times) = (boot, 0.0, Vec::new());
    for index in 0..LEAST {
        let now = period * MS * (1.0 + how.drift * index as f64 / 64.0);
        beat += now;
        if random.f64() < how.extra {
            times.push(beat + random.f64() * now);
        }
        if random.f64() < how.skip {
            continue;
        }
        let mut off = how.jitter * normal(&mut random);
        if random.f64() < how.late {
            off += how.late_by * random.f64();
        }
        if random.f64() < how.bunched {
            off = 1.0 + 0.01 * random.f64();
        }
        error = if how.add_up { error + off } else { off };
        times.push(beat + error * now);
    }
    let mut times: Vec<u64> = times.into_iter().map(|time| time as u64).collect();
    times.sort_unstable();
    times
}

/// How many seeds of how many are told within 2 % of the period.
fn right(period: f64, how: Clocked) -> (u64, Vec<Option<Rhythm>>) {
    let mut wrong = Vec::new();
    let mut told_right = 0;
    // With drift, the period over the releases that are looked at is a little longer.
    let looked_at = LEAST as f64 - KEPT as f64 / 2.0;
    let mean = period * (1.0 + how.drift * looked_at / 64.0);
    for seed in 0..SEEDS {
        match rhythm(&releases(period, how, seed)) {
            Some(Rhythm::Periodic { period_ns, .. })
                if (period_ns as f64 / (mean * MS) - 1.0).abs() <= 0.02 =>
            {
                told_right += 1;
            }
            other => wrong.push(other),
        }
    }
    (told_right, wrong)
}

fn always_right(how: Clocked) {
    for period in PERIODS {
        let (told, wrong) = right(period, how);
        assert_eq!(told, SEEDS, "{period} ms, {how:?}: {wrong:?}");
    }
}

#[test]
fn a_quiet_clock() {
    always_right(Clocked::default());
    always_right(Clocked { jitter: 0.01, ..Clocked::default() });
}

#[test]
fn releases_that_are_late_under_load() {
    always_right(Clocked { jitter: 0.02, late: 0.2, late_by: 0.9, ..Clocked::default() });
    always_right(Clocked { jitter: 0.05, late: 0.9, late_by: 0.4, ..Clocked::default() });
}

#[test]
fn frames_skipped() {
    always_right(Clocked { jitter: 0.02, skip: 0.1, ..Clocked::default() });
    always_right(Clocked { jitter: 0.02, skip: 0.2, ..Clocked::default() });
}

/// Nearly always right; what is not told is called aperiodic for now, and never another period.
fn right_or_silent(how: Clocked, share: f64) {
    for period in PERIODS {
        let (told, wrong) = right(period, how);
        assert!(told as f64 >= share * SEEDS as f64, "{period} ms, {how:?}: {told}, {wrong:?}");
        assert!(wrong.iter().all(|w| matches!(w, Some(Rhythm::Aperiodic { .. }))), "{wrong:?}");
    }
}

#[test]
fn almost_a_third_of_the_frames_skipped() {
    right_or_silent(Clocked { skip: 0.3, ..Clocked::default() }, 0.96);
}

#[test]
fn almost_a_third_of_the_releases_late_by_up_to_a_whole_period() {
    let how = Clocked { jitter: 0.02, late: 0.3, late_by: 0.9, ..Clocked::default() };
    right_or_silent(how, 0.96);
}

#[test]
fn releases_between_beats_and_two_at_once() {
    always_right(Clocked { jitter: 0.02, extra: 0.04, ..Clocked::default() });
    always_right(Clocked { jitter: 0.02, bunched: 0.05, ..Clocked::default() });
}

#[test]
fn a_clock_that_drifts() {
    for drift in [-0.01, -1e-4, 1e-6, 1e-3, 0.01] {
        always_right(Clocked { jitter: 0.01, drift, ..Clocked::default() });
    }
}

#[test]
fn sleeps_whose_errors_add_up() {
    always_right(Clocked { jitter: 0.03, add_up: true, ..Clocked::default() });
    for period in PERIODS {
        // One wait in ten of up to a third of the period; the typical interval is the period.
        let how =
            Clocked { jitter: 0.005, late: 0.1, late_by: 0.33, add_up: true, ..Clocked::default() };
        let (told, wrong) = right(period, how);
        assert!(told as f64 >= 0.96 * SEEDS as f64, "{period} ms: {told}, {wrong:?}");
    }
}

#[test]
fn everything_at_once() {
    let how = Clocked {
        jitter: 0.03,
        late: 0.15,
        late_by: 0.6,
        skip: 0.15,
        extra: 0.03,
        bunched: 0.02,
        drift: 0.002,
        add_up: false,
    };
    right_or_silent(how, 0.98);
}

/// How many of `times`'s outcomes are called periodic.
fn called_periodic(mut times: impl FnMut(&mut Rng) -> Vec<f64>) -> Vec<Rhythm> {
    let periodic = |seed| {
        let mut random = Rng::with_seed(seed);
        let start = random.f64() * 1e12;
        let times: Vec<u64> =
            times(&mut random).into_iter().map(|time| (start + time * MS) as u64).collect();
        let told = rhythm(&times);
        assert!(told.is_some());
        told.filter(|told| matches!(told, Rhythm::Periodic { .. }))
    };
    (0..SEEDS).filter_map(periodic).collect()
}

fn from_gaps(random: &mut Rng, mut gap: impl FnMut(&mut Rng, usize) -> f64) -> Vec<f64> {
    let mut time = 0.0;
    let mut next = |index| {
        time += gap(random, index);
        time
    };
    (0..64).map(&mut next).collect()
}

fn exponential(random: &mut Rng) -> f64 {
    -(1.0 - random.f64()).ln()
}

#[test]
fn independent_events_are_aperiodic() {
    let told = called_periodic(|random| from_gaps(random, |random, _| 10.0 * exponential(random)));
    assert_eq!(told, []);
}

#[test]
fn random_gaps_are_aperiodic() {
    for (from, to) in [(0.0, 20.0), (5.0, 15.0), (1.0, 30.0), (7.0, 13.0)] {
        let told = called_periodic(|random| {
            from_gaps(random, |random, _| from + (to - from) * random.f64())
        });
        assert!(told.len() <= 1, "{from} to {to}: {told:?}");
    }
}

#[test]
fn bursts_are_aperiodic() {
    for gaps in [[2.0, 2.0, 6.0], [2.0, 2.0, 11.0], [3.0, 3.0, 14.0], [1.0, 1.0, 38.0]] {
        let told = called_periodic(|random| from_gaps(random, |_, index| gaps[index % 3]));
        assert_eq!(told, [], "{gaps:?}");
        let told = called_periodic(|random| {
            from_gaps(random, |random, index| gaps[index % 3] + 0.2 * random.f64())
        });
        assert_eq!(told, [], "{gaps:?} with jitter");
    }
}

#[test]
fn bursts_at_random_times_are_aperiodic() {
    let told = called_periodic(|random| {
        from_gaps(random, |random, index| {
            if index % 4 == 0 { 30.0 * exponential(random) } else { 1.0 + random.f64() }
        })
    });
    assert_eq!(told, []);
}

#[test]
fn two_clocks_are_aperiodic() {
    let pairs =
        [(10.0, 33.3), (10.0, 16.67), (10.0, 12.5), (20.0, 33.3), (33.3, 40.0), (5.0, 12.0)];
    for (one, other) in pairs {
        let told = called_periodic(|random| {
            let ticks = |period: f64, random: &mut Rng| {
                let phase = period * random.f64();
                (0..200).map(|n| phase + period * f64::from(n)).collect::<Vec<_>>()
            };
            let mut times = ticks(one, random);
            times.extend(ticks(other, random));
            times.sort_by(f64::total_cmp);
            times.truncate(64);
            times
        });
        assert!(told.len() <= 1, "{one} and {other}: {} {told:?}", told.len());
    }
}

#[test]
fn a_pattern_of_whole_beats_is_a_beat_with_skipped_frames() {
    let told = called_periodic(|random| from_gaps(random, |_, index| [5.0, 5.0, 10.0][index % 3]));
    assert_eq!(told.len() as u64, SEEDS);
    let Rhythm::Periodic { period_ns, skipped, .. } = told[0] else { unreachable!() };
    assert_eq!(period_ns, 5_000_000);
    assert!((skipped - 0.25).abs() < 0.02, "{skipped}");
}

#[test]
fn the_beat_after_a_pause_or_a_change_counts() {
    let mut times: Vec<u64> = (0..40).map(|n| 1_000_000_000 + n * 10_000_000).collect();
    times.extend((0..20).map(|n| 9_003_000_000 + n * 20_000_000));
    let Some(Rhythm::Periodic { period_ns, .. }) = rhythm(&times) else {
        panic!("{:?}", rhythm(&times));
    };
    assert_eq!(period_ns, 20_000_000);
}

#[test]
fn too_few_releases_say_nothing() {
    let clock = releases(10.0, Clocked::default(), 1);
    assert_eq!(rhythm(&clock[..MIN_PERIODIC - 1]), None);
    assert!(matches!(rhythm(&clock[..MIN_PERIODIC]), Some(Rhythm::Periodic { .. })));
    let mut random = Rng::with_seed(2);
    let events: Vec<u64> = from_gaps(&mut random, |random, _| 1e7 * exponential(random))
        .iter()
        .map(|t| *t as u64)
        .collect();
    assert_eq!(rhythm(&events[..MIN_APERIODIC - 1]), None);
    assert!(matches!(rhythm(&events[..MIN_APERIODIC]), Some(Rhythm::Aperiodic { .. })));
}

#[test]
fn jitter_and_skipped_beats_are_told() {
    let how = Clocked { jitter: 0.05, skip: 0.2, ..Clocked::default() };
    let (mut jitter, mut skipped) = (0.0, 0.0);
    for seed in 0..SEEDS {
        let Some(Rhythm::Periodic { jitter_ns, skipped: s, .. }) =
            rhythm(&releases(10.0, how, seed))
        else {
            panic!("seed {seed}");
        };
        jitter += jitter_ns as f64 / SEEDS as f64;
        skipped += s / SEEDS as f64;
    }
    // Half of a normal distribution lies within 0.674 standard deviations.
    assert!((jitter / 337_000.0 - 1.0).abs() < 0.05, "{jitter}");
    assert!((skipped - 0.2).abs() < 0.02, "{skipped}");
}

#[test]
fn times_that_are_equal_or_go_back_are_survived() {
    assert!(matches!(rhythm(&[7; 64]), Some(Rhythm::Aperiodic { median_ns: 0 })));
    let back: Vec<u64> = (0..64).rev().map(|n| n * 10_000_000).collect();
    assert!(rhythm(&back).is_some());
}

proptest! {
    #[test]
    fn any_times_are_survived_and_told_within_bounds(
        mut times in prop::collection::vec(prop_oneof![any::<u64>(), 0..1_000_000_u64], 0..100),
        ascending in any::<bool>(),
    ) {
        if ascending {
            times.sort_unstable();
        }
        match rhythm(&times) {
            None => prop_assert!(times.len() < MIN_APERIODIC),
            Some(Rhythm::Periodic { period_ns, jitter_ns, skipped }) => {
                prop_assert!(times.len() >= MIN_PERIODIC && period_ns > 0);
                prop_assert!(jitter_ns <= period_ns && (0.0..=MAX_SKIPPED).contains(&skipped));
            }
            Some(Rhythm::Aperiodic { .. }) => prop_assert!(times.len() >= MIN_APERIODIC),
        }
    }

    #[test]
    fn the_answer_does_not_depend_on_when_the_host_started(seed in any::<u64>(), later in 0..1_u64 << 50) {
        let how = Clocked { jitter: 0.02, late: 0.1, late_by: 0.5, ..Clocked::default() };
        let times = releases(16.67, how, seed);
        let shifted: Vec<u64> = times.iter().map(|time| time + later).collect();
        prop_assert_eq!(rhythm(&times), rhythm(&shifted));
    }
}

#[test]
fn a_beat_goes_on_until_its_period_changes_or_it_ends() {
    let every = |period: u64, from: u64| (0..64).map(move |n| from + n * period);
    let beat: Vec<u64> = every(33_333_000, 5).collect();
    let known = rhythm(&beat).unwrap();
    assert!(goes_on(&known, &beat));
    let late: Vec<u64> =
        beat.iter().enumerate().map(|(n, at)| at + [0, 900_000, 200_000][n % 3]).collect();
    assert!(goes_on(&known, &late), "lateness of less than a tenth");
    let skips: Vec<u64> =
        beat.iter().enumerate().filter(|(n, _)| n % 5 != 0).map(|(_, at)| *at).collect();
    assert!(goes_on(&known, &skips));
    for (what, releases) in [
        ("2 % slower", every(34_000_000, 5).collect::<Vec<_>>()),
        ("another", every(20_000_000, 5).collect()),
        (
            "changed halfway",
            beat[..40].iter().copied().chain(every(40_000_000, beat[40])).collect(),
        ),
        ("few", beat[..8].to_vec()),
        ("random", (0..64_u64).map(|n| n * 33_333_000 + n * n * 7_919_000 % 33_000_000).collect()),
    ] {
        let mut releases = releases;
        releases.sort_unstable();
        assert!(!goes_on(&known, &releases), "{what}");
    }
    assert!(!goes_on(&Rhythm::Aperiodic { median_ns: 33_333_000 }, &beat));
}
