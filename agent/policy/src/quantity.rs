//! Shares, sizes and rates as a policy writes them: `12.5%`, `256MiB`, `1.5 GB`, `50MB/s`.

use std::fmt;

/// A part of a whole, or a multiple of it, in millionths: `0.1%` is 1,000, `150%` is 1,500,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    /// Millionths of the whole.
    pub millionths: u32,
}

/// A size in bytes or as a share of the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Of the host's memory, at most all of it.
    Share(Share),
    /// `"max"`: all there is; as a limit, none.
    Max,
}

impl Share {
    /// As a number: 1 is the whole.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.millionths) / 1e6
    }

    /// This share of `whole`, rounded down.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        let part = u128::from(whole) * u128::from(self.millionths) / 1_000_000;
        u64::try_from(part).unwrap_or(u64::MAX)
    }
}

impl Amount {
    /// In bytes, on a host with `memory` bytes; nothing for [`Amount::Max`].
    #[must_use]
    pub fn bytes(self, memory: u64) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Share(share) => Some(share.of(memory)),
            Self::Max => None,
        }
    }
}

/// Units of sizes and their bytes. As systemd and the kernel read them, a letter alone is binary.
const UNITS: [(&str, u64); 16] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("k", 1 << 10),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("bytes", 1),
];

/// Reads a percentage: a number, `%` and at most some spaces between them. Nothing where it is not
/// so, where it is finer than a millionth, or beyond 4,000 %.
pub(crate) fn share(text: &str) -> Option<Share> {
    let number = text.strip_suffix('%')?.trim_end_matches(' ');
    let (millionths, exact) = scaled(number, 10_000)?;
    let millionths = u32::try_from(millionths).ok()?;
    exact.then_some(Share { millionths })
}

/// Reads a size: a number, a unit and at most some spaces between them; a part of a byte is left
/// out. Nothing where it is not so or too large for 64 bits.
pub(crate) fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start_matches(' ');
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit)?;
    scaled(number, *bytes).map(|(bytes, _)| bytes)
}

/// Reads a size per second: `50MB/s`.
pub(crate) fn rate(text: &str) -> Option<u64> {
    size(text.strip_suffix("/s")?.trim_end_matches(' '))
}

/// `number` times `unit`, rounded down, and whether nothing was left out. Nothing where `number` is
/// no plain decimal number or the result is too large.
pub(crate) fn scaled(number: &str, unit: u64) -> Option<(u64, bool)> {
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (number, ""),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let mut scaled = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let (mut part, mut scale, mut exact) = (0_u128, 1_u128, true);
    for digit in fraction.bytes() {
        let digit = u128::from(digit - b'0');
        // That is finer than any unit has parts: what follows can only be left out.
        if scale >= 10_u128.pow(18) {
            exact &= digit == 0;
            continue;
        }
        part = part * 10 + digit;
        scale *= 10;
    }
    let part = part * u128::from(unit);
    exact &= part.is_multiple_of(scale);
    scaled = scaled.checked_add(u64::try_from(part / scale).ok()?)?;
    Some((scaled, exact))
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.write_str(&size_words(*bytes)),
            Self::Share(share) => write!(f, "{share}"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// In the largest binary unit that leaves a whole number: `256 MiB`, `1000 B`.
pub(crate) fn size_words(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = units.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    let (unit, name) = whole.unwrap_or((1_u64, "B"));
    format!("{} {name}", bytes / unit)
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.millionths / 10_000, self.millionths % 10_000);
        write!(f, "{whole}")?;
        let part = format!("{part:04}");
        match part.trim_end_matches('0') {
            "" => f.write_str("%"),
            digits => write!(f, ".{digits}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentages() {
        for (text, millionths) in [
            ("0%", 0),
            ("0.1%", 1_000),
            ("12.5 %", 125_000),
            ("100%", 1_000_000),
            ("150%", 1_500_000),
            ("0.0001%", 1),
        ] {
            assert_eq!(share(text), Some(Share { millionths }), "{text}");
        }
        for text in ["", "%", "1", "1 percent", "-1%", "0.00001%", "1e2%", "500000%", "1.%", ".1%"]
        {
            assert_eq!(share(text), None, "{text}");
        }
        assert_eq!(Share { millionths: 125_000 }.to_string(), "12.5%");
        assert_eq!(Share { millionths: 1 }.to_string(), "0.0001%");
        assert_eq!(Share { millionths: 1_500_000 }.of(200), 300);
    }

    #[test]
    fn sizes_and_rates() {
        for (text, bytes) in [
            ("256MiB", 256 << 20),
            ("1.5 GB", 1_500_000_000),
            ("64K", 64 << 10),
            ("0 B", 0),
            ("0.5KiB", 512),
            ("1.00000000000000000001kB", 1_000),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "256", "MiB", "-1M", "1 mb", "99999999999T", "1.5.5M", "1e3M", "1M "] {
            assert_eq!(size(text), None, "{text}");
        }
        assert_eq!(rate("50MB/s"), Some(50_000_000));
        assert_eq!(rate("1 MiB /s"), Some(1 << 20));
        for text in ["50MB", "50/s", "50MB/min", "MB/s"] {
            assert_eq!(rate(text), None, "{text}");
        }
        assert_eq!(size_words(256 << 20), "256 MiB");
        assert_eq!(size_words(1_000), "1000 B");
        assert_eq!(size_words(0), "0 B");
    }

    proptest! {
        #[test]
        fn words_can_be_read_back(bytes in any::<u64>(), millionths in any::<u32>()) {
            prop_assert_eq!(size(&size_words(bytes)), Some(bytes));
            let written = Share { millionths };
            prop_assert_eq!(share(&written.to_string()), Some(written));
        }

        #[test]
        fn no_text_panics(text in "[0-9.]{0,40} ?[KMGTiB%/s]{0,4}|\\PC{0,20}") {
            let _ = (size(&text), share(&text), rate(&text));
        }
    }
}
