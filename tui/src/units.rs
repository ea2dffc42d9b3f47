//! Numbers as people read them.

use downbeat_api::Misses;

/// What stands where a value is not known.
pub const UNKNOWN: &str = "–";

/// A share as a percentage with one digit after the point below 100 (`0.4`, `12.3`, `240`).
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent.abs() < 99.95 { format!("{percent:.1}") } else { format!("{percent:.0}") }
}

/// Bytes in at most five characters (`512K`, `3.2G`).
#[must_use]
pub fn bytes_short(bytes: u64) -> String {
    let (value, unit) = binary(bytes);
    match unit {
        0 => format!("{bytes}B"),
        _ if value < 9.95 => format!("{value:.1}{}", UNITS[unit]),
        _ => format!("{value:.0}{}", UNITS[unit]),
    }
}

/// Bytes for running text (`14 MiB`).
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let (value, unit) = binary(bytes);
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.95 => format!("{value:.1} {}iB", UNITS[unit]),
        _ => format!("{value:.0} {}iB", UNITS[unit]),
    }
}

const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];

#[expect(clippy::cast_precision_loss, reason = "a handful of digits are shown")]
fn binary(bytes: u64) -> (f64, usize) {
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 of a unit would print as four digits.
    while value >= 999.5 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    (value, unit)
}

/// A short time in nanoseconds (`55 ns`, `12 µs`, `1.2 ms`, `3.4 s`).
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn nanos(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..999_500 => (ns as f64 / 1e3, "µs"),
        999_500..999_500_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// The same, or [`UNKNOWN`].
#[must_use]
pub fn nanos_or_unknown(ns: Option<u64>) -> String {
    ns.map_or_else(|| UNKNOWN.into(), nanos)
}

/// A period: four digits, since 16.67 ms and 16 ms are two different beats (`16.67 ms`, `10 ms`).
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub fn period(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..999_950 => (ns as f64 / 1e3, "µs"),
        999_950..999_950_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = match value {
        ..10.0 => 3,
        10.0..100.0 => 2,
        _ => 1,
    };
    let shown = format!("{value:.digits$}");
    format!("{} {unit}", shown.trim_end_matches('0').trim_end_matches('.'))
}

/// How often a second (`0.4`, `59.9`, `1200`).
#[must_use]
pub fn rate(per_second: f64) -> String {
    if per_second.abs() < 99.95 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// A count in at most five characters (`9999`, `123k`, `1.2M`).
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn short_count(n: u64) -> String {
    let (value, unit) = match n {
        0..10_000 => return n.to_string(),
        10_000..999_500 => (n as f64 / 1e3, "k"),
        999_500..999_500_000 => (n as f64 / 1e6, "M"),
        _ => (n as f64 / 1e9, "G"),
    };
    if value < 9.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// A longer time in seconds (`12 s`, `3 min 5 s`, `3 h 12 min`, `4 d 2 h`).
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float too large or below zero saturates"
)]
pub fn span(seconds: f64) -> String {
    let s = seconds as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

/// A longer time in its largest unit (`12 s`, `3 min`, `3 h`, `4 d`).
#[must_use]
pub fn span_short(seconds: f64) -> String {
    let span = span(seconds);
    match span.match_indices(' ').nth(1) {
        Some((end, _)) => span[..end].to_owned(),
        None => span,
    }
}

/// `12 of 3000 (0.4 %)`, or [`UNKNOWN`].
#[must_use]
pub fn misses(misses: Option<Misses>) -> String {
    match misses {
        None => UNKNOWN.into(),
        Some(m) if m.frames == 0 => "0 of 0".into(),
        Some(m) => format!("{} of {} ({})", m.missed, m.frames, miss_share(m)),
    }
}

/// `0.4 %`, or [`UNKNOWN`] before the first frame.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
pub fn miss_share(misses: Misses) -> String {
    match misses.frames {
        0 => UNKNOWN.into(),
        frames => format!("{} %", percent(misses.missed as f64 / frames as f64)),
    }
}

/// `1 thread`, `2 threads`, `2 processes`.
#[must_use]
pub fn count(n: u64, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        _ if noun.ends_with('s') => format!("{n} {noun}es"),
        _ => format!("{n} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_to_their_columns() {
        let cases = [0, 1, 999, 1_000, 1_023, 1_024, 10_188, 1 << 20, 999 << 20, u64::MAX];
        let shown: Vec<_> = cases.into_iter().map(bytes_short).collect();
        assert_eq!(
            shown,
            ["0B", "1B", "999B", "1.0K", "1.0K", "1.0K", "9.9K", "1.0M", "999M", "16E"]
        );
        assert_eq!(bytes(14 << 20), "14 MiB");
    }

    #[test]
    fn times_change_their_unit_where_four_digits_would_stand() {
        let cases =
            [55, 999, 1_000, 12_345, 999_499, 999_500, 1_234_567, 14_275_000, 3_400_000_000];
        let shown: Vec<_> = cases.into_iter().map(nanos).collect();
        assert_eq!(
            shown,
            ["55 ns", "999 ns", "1.0 µs", "12 µs", "999 µs", "1.0 ms", "1.2 ms", "14 ms", "3.4 s"]
        );
    }

    #[test]
    fn periods_keep_their_digits_and_no_zeros() {
        let cases =
            [850, 5_000_000, 10_000_000, 16_667_000, 33_333_333, 125_040_000, 1_000_000_000];
        let shown: Vec<_> = cases.into_iter().map(period).collect();
        assert_eq!(shown, ["850 ns", "5 ms", "10 ms", "16.67 ms", "33.33 ms", "125 ms", "1 s"]);
        assert_eq!(period(999_950), "1 ms");
    }

    #[test]
    fn counts_keep_to_their_columns() {
        let cases = [0, 9_999, 10_000, 999_499, 999_500, 12_345_678, 4_200_000_000];
        let shown: Vec<_> = cases.into_iter().map(short_count).collect();
        assert_eq!(shown, ["0", "9999", "10k", "999k", "1.0M", "12M", "4.2G"]);
    }

    #[test]
    fn long_times_have_two_units() {
        let cases = [-3.0, 12.9, 61.0, 11_520.0, 352_800.0];
        let shown: Vec<_> = cases.into_iter().map(span).collect();
        assert_eq!(shown, ["0 s", "12 s", "1 min 1 s", "3 h 12 min", "4 d 2 h"]);
        let short: Vec<_> = cases.into_iter().map(span_short).collect();
        assert_eq!(short, ["0 s", "12 s", "1 min", "3 h", "4 d"]);
    }

    #[test]
    fn unknown_misses_are_not_zero() {
        assert_eq!(misses(None), "–");
        let some = Misses { frames: 3_000, missed: 12 };
        assert_eq!(misses(Some(some)), "12 of 3000 (0.4 %)");
    }
}
