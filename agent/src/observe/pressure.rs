//! Pressure stall information: of the host from `/proc/pressure`, of a group from its folder.
//!
//! The averages are too slow to explain a frame that was late. The totals are exact whenever they
//! are read, so the share of the interval is worked out from two of them.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use downbeat_api::{HostPressure, ResourcePressure, Stall};

use crate::roots::Roots;

/// One pressure file at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PressureFile {
    /// Time in which at least one task waited.
    pub some: StallLine,
    /// Time in which all tasks waited; absent for the CPU before Linux 5.13.
    pub full: Option<StallLine>,
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StallLine {
    /// Decaying average over 10 s, 0 to 1.
    pub avg10: f64,
    /// Since boot or since the group was made, microseconds.
    pub total_us: u64,
}

/// Reads one pressure file.
///
/// # Errors
/// When it cannot be read, or is not what the kernel documents.
pub fn read_pressure(path: &Path) -> io::Result<PressureFile> {
    let text = std::fs::read_to_string(path)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no `some` line"))
}

/// From the text of a pressure file; a damaged `full` line is as good as none.
#[must_use]
pub fn parse(text: &str) -> Option<PressureFile> {
    let line = |kind: &str| text.lines().find_map(|line| parse_line(line.strip_prefix(kind)?));
    Some(PressureFile { some: line("some ")?, full: line("full ") })
}

/// From `avg10=0.84 avg60=… avg300=… total=123`.
fn parse_line(fields: &str) -> Option<StallLine> {
    let field =
        |key: &str| fields.split_ascii_whitespace().find_map(|field| field.strip_prefix(key));
    let percent: f64 = field("avg10=")?.parse().ok()?;
    let avg10 = (0.0..=100.0).contains(&percent).then_some(percent / 100.0)?;
    Some(StallLine { avg10, total_us: field("total=")?.parse().ok()? })
}

/// The share of `elapsed_ns` that passed between two totals. The kernel's clock and ours are read
/// one after the other, so that a whole interval may seem a little more than whole.
#[must_use]
pub fn share(before_us: u64, now_us: u64, elapsed_ns: u64) -> Option<f64> {
    if elapsed_ns == 0 {
        return None;
    }
    let stalled_ns = now_us.saturating_sub(before_us) as f64 * 1e3;
    Some((stalled_ns / elapsed_ns as f64).clamp(0.0, 1.0))
}

/// Pressure of the whole host.
#[derive(Debug)]
pub struct PressureReader {
    folder: PathBuf,
    before: Option<(u64, Totals)>,
}

/// Waits for all three resources, microseconds: since boot, or between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Some task waited for a CPU.
    pub cpu_some: u64,
    /// Some task waited for memory.
    pub memory_some: u64,
    /// All tasks waited for memory.
    pub memory_full: u64,
    /// Some task waited for a block device.
    pub io_some: u64,
    /// All tasks waited for a block device.
    pub io_full: u64,
}

impl Totals {
    /// What passed; a total that ran backwards counts as still.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    /// The sum of two spans.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn with(self, other: Self, join: fn(u64, u64) -> u64) -> Self {
        Self {
            cpu_some: join(self.cpu_some, other.cpu_some),
            memory_some: join(self.memory_some, other.memory_some),
            memory_full: join(self.memory_full, other.memory_full),
            io_some: join(self.io_some, other.io_some),
            io_full: join(self.io_full, other.io_full),
        }
    }
}

/// The three files at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Files {
    cpu: PressureFile,
    memory: PressureFile,
    io: PressureFile,
}

impl Files {
    fn totals(&self) -> Totals {
        let full = |file: &PressureFile| file.full.map_or(0, |line| line.total_us);
        Totals {
            cpu_some: self.cpu.some.total_us,
            memory_some: self.memory.some.total_us,
            memory_full: full(&self.memory),
            io_some: self.io.some.total_us,
            io_full: full(&self.io),
        }
    }
}

impl PressureReader {
    /// A reader below `roots.proc`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self { folder: roots.proc.join("pressure"), before: None }
    }

    /// The totals alone: three small files.
    ///
    /// # Errors
    /// As [`PressureReader::read`].
    pub fn totals(&self) -> Result<Totals, String> {
        Ok(self.files()?.totals())
    }

    /// Pressure over the time since the last call, and the totals; `now_ns` is monotonic.
    ///
    /// # Errors
    /// One line with the reason and the remedy where the kernel shows none.
    pub fn read(&mut self, now_ns: u64) -> Result<(HostPressure, Totals), String> {
        let files = self.files()?;
        let totals = files.totals();
        let before = self.before.replace((now_ns, totals));
        let stall = |line: StallLine, total_before: fn(&Totals) -> u64| Stall {
            avg10: line.avg10,
            share: before.and_then(|(then_ns, before)| {
                share(total_before(&before), line.total_us, now_ns.saturating_sub(then_ns))
            }),
            total_seconds: line.total_us as f64 / 1e6,
        };
        let Files { cpu, memory, io } = files;
        let pressure = HostPressure {
            // For the whole host the kernel writes a `full` of zeros: some task always runs.
            cpu: ResourcePressure { some: stall(cpu.some, |t| t.cpu_some), full: None },
            memory: ResourcePressure {
                some: stall(memory.some, |t| t.memory_some),
                full: memory.full.map(|line| stall(line, |t| t.memory_full)),
            },
            io: ResourcePressure {
                some: stall(io.some, |t| t.io_some),
                full: io.full.map(|line| stall(line, |t| t.io_full)),
            },
        };
        Ok((pressure, totals))
    }

    fn files(&self) -> Result<Files, String> {
        let read = |name: &str| {
            let path = self.folder.join(name);
            read_pressure(&path).map_err(|error| missing(&path, &error))
        };
        Ok(Files { cpu: read("cpu")?, memory: read("memory")?, io: read("io")? })
    }
}

/// Why there is no pressure, in one line with what helps.
fn missing(path: &Path, error: &io::Error) -> String {
    let mut text = format!("no pressure: {}: {error}", path.display());
    let remedy = match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => "boot with psi=1 (the kernel needs CONFIG_PSI)",
        (_, Some(libc::EOPNOTSUPP)) => "boot with psi=1: it is compiled in and switched off",
        (io::ErrorKind::PermissionDenied, _) => "let the agent read /proc/pressure",
        _ => return text,
    };
    // Writing into a string has no reason to fail.
    let _ = write!(text, "; {remedy}");
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const IDLE: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n\
                        full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";

    struct Host(tempfile::TempDir);

    impl Host {
        fn new(files: &[(&str, &str)]) -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            fs::create_dir(host.0.path().join("pressure")).unwrap();
            for (name, text) in files {
                host.write(name, text);
            }
            host
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join("pressure").join(name), text).unwrap();
        }

        fn reader(&self) -> PressureReader {
            PressureReader::new(&Roots { proc: self.0.path().into(), ..Roots::default() })
        }
    }

    #[test]
    fn the_share_of_the_interval_comes_from_the_totals() {
        let host = Host::new(&[("cpu", IDLE), ("memory", IDLE), ("io", IDLE)]);
        let mut reader = host.reader();
        let (first, _) = reader.read(1_000_000_000).unwrap();
        assert_eq!(first.io.some.share, None, "one reading says nothing of an interval");
        host.write(
            "io",
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=500000\n\
             full avg10=0.25 avg60=0.00 avg300=0.00 total=250000\n",
        );
        let (second, totals) = reader.read(3_000_000_000).unwrap();
        assert_eq!((totals.io_some, totals.io_full), (500_000, 250_000));
        assert_eq!(second.io.some, Stall { avg10: 0.015, share: Some(0.25), total_seconds: 0.5 });
        assert_eq!(second.io.full.unwrap().share, Some(0.125));
        assert_eq!(second.memory.some.share, Some(0.0));
        assert_eq!(second.cpu.full, None, "the host's own `full` of the CPU means nothing");
    }

    #[test]
    fn a_kernel_before_5_13_has_no_full_line_for_the_cpu() {
        let some = "some avg10=12.50 avg60=0.31 avg300=1.26 total=33\n";
        let file = parse(some).unwrap();
        assert_eq!((file.some.avg10, file.some.total_us, file.full), (0.125, 33, None));
    }

    #[test]
    fn without_the_files_the_reason_names_the_path_and_the_remedy() {
        let reason = Host::new(&[]).reader().read(1).unwrap_err();
        assert!(reason.contains("pressure/cpu") && reason.contains("psi=1"), "{reason}");
        let reason = Host::new(&[("cpu", "")]).reader().totals().unwrap_err();
        assert!(reason.contains("no `some` line"), "{reason}");
        let off = missing(Path::new("cpu"), &io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        assert!(off.ends_with("switched off"), "{off}");
    }

    #[test]
    fn a_share_stays_within_its_range() {
        assert_eq!(share(0, 1, 0), None);
        assert_eq!(share(0, 1_001, 1_000_000), Some(1.0));
        assert_eq!(share(10, 5, 1_000_000), Some(0.0), "a group that was made anew starts at zero");
    }

    #[test]
    fn this_machine_has_pressure_or_says_why_not() {
        let mut reader = PressureReader::new(&Roots::default());
        match reader.read(0) {
            Ok((pressure, _)) => assert!(pressure.cpu.some.total_seconds >= 0.0),
            Err(reason) => assert!(reason.starts_with("no pressure: /proc/pressure"), "{reason}"),
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_averages_are_shares(text in "((some|full) |avg10=|total=|[0-9]{1,21}|[ \n.a-z-])*") {
            if let Some(file) = parse(&text) {
                prop_assert!((0.0..=1.0).contains(&file.some.avg10));
            }
        }

        #[test]
        fn what_the_kernel_prints_is_read_back(percent in 0_u32..=10_000, total in any::<u64>()) {
            let line = format!("some avg10={}.{:02} avg60=0.00 avg300=0.00 total={total}\n", percent / 100, percent % 100);
            let file = parse(&line).unwrap();
            prop_assert_eq!(file.some.total_us, total);
            prop_assert!((file.some.avg10 - f64::from(percent) / 1e4).abs() < 1e-9);
        }
    }
}
