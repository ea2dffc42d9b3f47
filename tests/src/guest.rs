//! The line protocol between a test guest and its harness, on the guest's serial console.
//!
//! Kernel messages share the console, so a line counts only from its marker on.

use std::fmt;

/// Precedes every line of the protocol.
pub const MARKER: &str = "@downbeat ";

/// Environment variable of the guest's first process: only checks with its value in their name run.
pub const ONLY: &str = "DOWNBEAT_CHECK";

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A check passed.
    Ok(String),
    /// A check failed.
    Fail {
        /// Its name.
        name: String,
        /// What was seen.
        why: String,
    },
    /// A check that this kernel cannot run.
    Skipped {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// All checks are through. A guest that dies before has failed.
    Done,
}

impl Line {
    /// Reads one line of the console; nothing where it is not the protocol's.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (_, said) = line.trim_end().split_once(MARKER)?;
        if said == "done" {
            return Some(Self::Done);
        }
        if let Some(name) = said.strip_prefix("ok ") {
            return Some(Self::Ok(name.to_owned()));
        }
        let (word, rest) = said.split_once(' ')?;
        let (name, why) = rest.split_once(": ")?;
        let (name, why) = (name.to_owned(), why.to_owned());
        match word {
            "FAIL" => Some(Self::Fail { name, why }),
            "skipped" => Some(Self::Skipped { name, why }),
            _ => None,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line whatever the reason holds: the harness reads by line.
        let flat = |why: &str| why.replace('\n', " | ");
        match self {
            Self::Ok(name) => write!(f, "{MARKER}ok {name}"),
            Self::Fail { name, why } => write!(f, "{MARKER}FAIL {name}: {}", flat(why)),
            Self::Skipped { name, why } => write!(f, "{MARKER}skipped {name}: {}", flat(why)),
            Self::Done => write!(f, "{MARKER}done"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn every_line_reads_back_as_it_was_written() {
        for line in [
            Line::Ok("boots".into()),
            Line::Fail { name: "restores on SIGTERM".into(), why: "nice: 0 != 5".into() },
            Line::Skipped { name: "uclamp".into(), why: "not compiled in".into() },
            Line::Done,
        ] {
            assert_eq!(Line::parse(&line.to_string()), Some(line));
        }
    }

    #[test]
    fn a_kernel_message_on_the_same_line_does_not_hide_it() {
        assert_eq!(Line::parse("[    3.1] clocksource@downbeat done\r\n"), Some(Line::Done));
        assert_eq!(Line::parse("[    3.1] ok everything"), None);
    }
}
