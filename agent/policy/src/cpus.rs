//! Sets of CPUs, as the kernel writes them in sysfs (`0-3,6`).

use std::fmt;
use std::str::FromStr;

/// The highest CPU number that is accepted: the kernel's own upper limit (`NR_CPUS`) on x86 is
/// 8192 CPUs.
pub const HIGHEST_CPU: u32 = 8191;

/// CPUs to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuList {
    /// `"all"`: every CPU that the host has online.
    All,
    /// By number, ascending, without repeats, not empty, none above [`HIGHEST_CPU`].
    Only(Vec<u32>),
}

/// Why a list of CPUs was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuListError {
    /// No CPU in it.
    #[error("the list of CPUs is empty; write `all` or numbers as in \"0-3,6\"")]
    Empty,
    /// Not a number, a range or a comma between them.
    #[error("`{}` is neither `all`, a CPU number nor a range like 0-3", .0.escape_debug())]
    Malformed(String),
    /// A range that ends before it starts.
    #[error("the range {0}-{1} is empty; write {1}-{0}")]
    Backwards(u32, u32),
    /// Above [`HIGHEST_CPU`].
    #[error("CPU {0} is out of range; {HIGHEST_CPU} is the highest number that Linux gives")]
    TooHigh(String),
}

impl FromStr for CpuList {
    type Err = CpuListError;

    /// Reads `all`, or numbers and ranges with commas between them, in any order, with or without
    /// spaces.
    fn from_str(text: &str) -> Result<Self, CpuListError> {
        match text.trim() {
            "" => return Err(CpuListError::Empty),
            "all" => return Ok(Self::All),
            _ => {}
        }
        // A flag per CPU, so that no list, however often it repeats itself, takes more memory.
        let mut chosen = vec![false; HIGHEST_CPU as usize + 1];
        for part in text.split(',').map(str::trim) {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first.trim(), part)?, number(last.trim(), part)?),
                None => {
                    let only = number(part, part)?;
                    (only, only)
                }
            };
            if last < first {
                return Err(CpuListError::Backwards(first, last));
            }
            chosen[first as usize..=last as usize].fill(true);
        }
        let numbered = (0..).zip(chosen);
        Ok(Self::Only(numbered.filter_map(|(cpu, chosen)| chosen.then_some(cpu)).collect()))
    }
}

/// One CPU number of `part`, at most [`HIGHEST_CPU`].
fn number(digits: &str, part: &str) -> Result<u32, CpuListError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CpuListError::Malformed(shortened(part)));
    }
    match digits.parse() {
        Ok(cpu) if cpu <= HIGHEST_CPU => Ok(cpu),
        _ => Err(CpuListError::TooHigh(shortened(digits))),
    }
}

/// So much of a text as a message can bear.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Only(cpus) = self else {
            return f.write_str("all");
        };
        for (i, run) in cpus.chunk_by(|a, b| a.checked_add(1) == Some(*b)).enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match run {
                [only] => write!(f, "{only}")?,
                [first, .., last] => write!(f, "{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Result<CpuList, CpuListError> {
        text.parse()
    }

    #[test]
    fn reads_numbers_and_ranges_in_any_order() {
        assert_eq!(list("0-3,6"), Ok(CpuList::Only(vec![0, 1, 2, 3, 6])));
        assert_eq!(list(" 6, 1 - 2 ,2,0"), Ok(CpuList::Only(vec![0, 1, 2, 6])));
        assert_eq!(list("all"), Ok(CpuList::All));
        assert_eq!(list("8191"), Ok(CpuList::Only(vec![8191])));
    }

    #[test]
    fn refuses_what_is_no_list() {
        for text in ["x", "1-", "-1", "1,,2", ",", "1-2-3", "+1", "0x1", "1:2", "٣"] {
            assert!(matches!(list(text), Err(CpuListError::Malformed(_))), "{text}");
        }
        assert_eq!(list("  "), Err(CpuListError::Empty));
        assert_eq!(list("3-1"), Err(CpuListError::Backwards(3, 1)));
        assert_eq!(list("0-8192"), Err(CpuListError::TooHigh("8192".into())));
        assert_eq!(
            list("0-99999999999999999999"),
            Err(CpuListError::TooHigh("99999999999999999999".into()))
        );
    }

    proptest! {
        #[test]
        fn is_written_as_it_is_read(cpus in proptest::collection::btree_set(0..=8191u32, 1..200)) {
            let written = CpuList::Only(cpus.into_iter().collect());
            prop_assert_eq!(list(&written.to_string()), Ok(written));
        }

        #[test]
        fn no_text_panics(text in "[0-9, -]{0,30}|\\PC{0,20}") {
            if let Ok(CpuList::Only(cpus)) = list(&text) {
                prop_assert!(!cpus.is_empty());
                prop_assert!(cpus.is_sorted_by(|a, b| a < b));
            }
        }
    }
}
