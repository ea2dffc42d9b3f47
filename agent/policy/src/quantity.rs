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
