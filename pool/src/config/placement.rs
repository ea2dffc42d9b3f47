//! `threads`, `cpus`, `numa`, `gpu`, `memory`, `network`, `sandbox`, `user`: where a worker runs
//! and what it may do.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::file::File;
use super::values::{boolean, folder, number, string};

/// CPUs of the largest machine that is thought of.
const MAX_CPU: u64 = 8191;

/// Where a worker runs and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Threads that each instance computes with; absent: as many as its CPUs.
    pub threads: Option<usize>,
    /// CPUs that it may use; absent: those of the pool.
    pub cpus: Option<CpuList>,
    /// NUMA node whose CPUs and memory it uses.
    pub numa: Option<u32>,
    /// GPUs that it sees, by number or UUID; absent: all.
    pub gpu: Option<Vec<String>>,
    /// Most memory of one instance, bytes.
    pub memory: Option<u64>,
    /// Whether it may use the network.
    pub network: bool,
    /// Which files it may use.
    pub sandbox: Sandbox,
    /// User that it runs as, where the pool may choose.
    pub user: Option<String>,
}

impl Placement {
    /// With every key left out. A built-in worker needs no network and no files but its own.
    #[must_use]
    pub fn of(built_in: bool) -> Self {
        Self {
            threads: None,
            cpus: None,
            numa: None,
            gpu: None,
            memory: None,
            network: !built_in,
            sandbox: if built_in { Sandbox::own() } else { Sandbox::Off },
            user: None,
        }
    }
}

/// Which files a worker may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Those that its user may.
    Off,
    /// To read: programs, libraries and what is named; to write: its temporary folder and what is
    /// named.
    On {
        /// Folders and files that it may read besides.
        read: Vec<PathBuf>,
        /// Folders and files that it may read and write besides.
        write: Vec<PathBuf>,
    },
}

impl Sandbox {
    /// Nothing named besides.
    #[must_use]
    pub fn own() -> Self {
        Self::On { read: Vec::new(), write: Vec::new() }
    }
}

/// CPUs, as the kernel writes them: `0-3,6`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(pub BTreeSet<usize>);

impl CpuList {
    /// Reads `0-3,6`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no list of CPUs; write one like \"0-3,6\"");
        let one = |text: &str| {
            let number = text.trim().parse::<u64>().map_err(|_| wrong())?;
            if number > MAX_CPU {
                return Err(wrong());
            }
            Ok(number as usize)
        };
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (one(first)?, one(last)?);
            if first > last {
                return Err(wrong());
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

pub fn read(file: &mut File<'_>, table: &DeTable<'_>, built_in: bool) -> Placement {
    let default = Placement::of(built_in);
    Placement {
        threads: file.get(table, "", "threads", |v| number(v, 1..=1024)).map(|n| n as usize),
        cpus: file.get(table, "", "cpus", |v| CpuList::parse(string(v)?)),
        numa: file.get(table, "", "numa", |v| number(v, 0..=1023)).map(|n| n as u32),
        gpu: file.get(table, "", "gpu", gpus),
        memory: file.get(table, "", "memory", memory),
        network: file.get(table, "", "network", boolean).unwrap_or(default.network),
        sandbox: sandbox(file, table).unwrap_or(default.sandbox),
        user: file.get(table, "", "user", user),
    }
}

fn sandbox(file: &mut File<'_>, table: &DeTable<'_>) -> Option<Sandbox> {
    let value = table.get("sandbox")?;
    if let Some(on) = value.get_ref().as_bool() {
        return Some(if on { Sandbox::own() } else { Sandbox::Off });
    }
    let wanted = "true, false or `{ read = [\"/srv/voices\"], write = [] }`";
    let (inner, _) = file.table(table, "sandbox", wanted)?;
    file.only(inner, &["read", "write"], "`sandbox`");
    let read = file.get(inner, "sandbox.", "read", folders).unwrap_or_default();
    let write = file.get(inner, "sandbox.", "write", folders).unwrap_or_default();
    Some(Sandbox::On { read, write })
}

fn folders(value: &DeValue<'_>) -> Result<Vec<PathBuf>, String> {
    let array = value
        .as_array()
        .ok_or_else(|| format!("expected an array of paths, found {}", value.type_str()))?;
    array.iter().map(|path| folder(path.get_ref())).collect()
}

fn gpus(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::Integer(_) => number(value, 0..=255).map(|n| n.to_string()),
        _ => match string(value)? {
            uuid if !uuid.is_empty()
                && uuid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'/') =>
            {
                Ok(uuid.to_owned())
            }
            other => Err(format!("`{other}` is no GPU; write its number or its UUID")),
        },
    };
    match value {
        DeValue::Array(array) => array.iter().map(|gpu| one(gpu.get_ref())).collect(),
        _ => Ok(vec![one(value)?]),
    }
}

fn memory(value: &DeValue<'_>) -> Result<u64, String> {
    const WANTED: &str = "write a size with its unit, like \"512MiB\" or \"2GiB\"";
    let text = string(value).map_err(|reason| format!("{reason}; {WANTED}"))?;
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (count, unit) = text.split_at(split);
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(format!("`{text}` is not a size; {WANTED}")),
    };
    let bytes = count.trim().parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if (16 << 20..=1 << 50).contains(&bytes) => Ok(bytes),
        Some(_) => {
            Err(format!("`{text}` is out of range; a worker's memory is 16MiB to 1048576GiB"))
        }
        None => Err(format!("`{text}` is not a size; {WANTED}")),
    }
}

fn user(value: &DeValue<'_>) -> Result<String, String> {
    let name = string(value)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !name.is_empty() && name.len() <= 32 && name.bytes().all(plain) {
        Ok(name.to_owned())
    } else {
        Err(format!("`{name}` is no user's name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_written_as_they_are_read() {
        for text in ["0", "0-3,6", "1,3,5-7"] {
            assert_eq!(CpuList::parse(text).map(|cpus| cpus.to_string()), Ok(text.into()));
        }
        for text in ["", "a", "3-1", "0-", "0-99999999", "-1", "1,,2"] {
            assert!(CpuList::parse(text).is_err(), "{text}");
        }
    }
}
