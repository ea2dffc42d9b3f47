//! Durations as a policy writes them: `10ms`, `1.5 ms`, `500us`, `2s`.

use std::time::Duration;

use crate::quantity::scaled;

/// Units and their nanoseconds.
const UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// For messages.
pub(crate) const UNIT_NAMES: &str = "ns, us, ms, s, min and h";

/// Reads a number, a unit and at most some spaces between them. Nothing where it is not so, where
/// it is finer than a nanosecond, or beyond some hundred years.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start_matches(' ');
    let (_, unit_ns) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let (ns, exact) = scaled(number, *unit_ns)?;
    exact.then(|| Duration::from_nanos(ns))
}

/// In the largest unit that leaves a number of one or more: `50 ns`, `500 us`, `1.5 ms`, `2 s`.
pub(crate) fn words(duration: Duration) -> String {
    let ns = duration.as_nanos();
    let (unit, name) = match ns {
        1_000_000_000.. => (1_000_000_000, "s"),
        1_000_000.. => (1_000_000, "ms"),
        1..1_000 => (1, "ns"),
        _ => (1_000, "us"),
    };
    let fraction = format!("{:09}", ns % unit * (1_000_000_000 / unit));
    match fraction.trim_end_matches('0') {
        "" => format!("{} {name}", ns / unit),
        fraction => format!("{}.{fraction} {name}", ns / unit),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_usual_ways_of_writing() {
        for (text, us) in [
            ("10ms", 10_000),
            ("10 ms", 10_000),
            ("1.5ms", 1_500),
            ("2s", 2_000_000),
            ("500us", 500),
        ] {
            assert_eq!(parse(text), Some(Duration::from_micros(us)), "{text}");
        }
        assert_eq!(parse("0.033s"), Some(Duration::from_millis(33)));
        assert_eq!(parse("1.5min"), Some(Duration::from_secs(90)));
        assert_eq!(parse("2 h"), Some(Duration::from_secs(7_200)));
        assert_eq!(parse("50ns"), Some(Duration::from_nanos(50)));
        assert_eq!(parse("250 µs"), Some(Duration::from_micros(250)));
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "10",
            "ms",
            "10 minutes",
            "-1ms",
            "1.ms",
            ".5ms",
            "1.2.3ms",
            "1e3ms",
            "10 MS",
            "ms10",
            "10ms ",
            " 10ms",
            "10\tms",
            "99999999999999999999s",
            "18446744073709551615s",
            "1.0001us",
            "1.00005us",
            "0.5ns",
            "1m",
            "99999999h",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn words_use_the_largest_unit() {
        for (us, expected) in
            [(3_000, "3 ms"), (500, "500 us"), (1_500, "1.5 ms"), (2_000_000, "2 s")]
        {
            assert_eq!(words(Duration::from_micros(us)), expected);
        }
        assert_eq!(words(Duration::ZERO), "0 us");
        assert_eq!(words(Duration::from_nanos(33_333_333)), "33.333333 ms");
        assert_eq!(words(Duration::from_nanos(50)), "50 ns");
    }

    proptest! {
        #[test]
        fn words_can_be_read_back(ns in 0..10_000_000_000_000u64) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse(&words(duration)), Some(duration));
        }

        #[test]
        fn no_text_panics(text in "[0-9.]{0,30} ?[nmushiµ]{0,3}|\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
