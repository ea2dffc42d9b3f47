//! CPUs, load and memory of the host.
//!
//! The files are parsed here and not by the `procfs` crate: it loses the CPU numbers of
//! `/proc/stat`, which matter once a CPU is offline, wants fields of `/proc/meminfo` that some
//! containers do not show, and keeps shares as `f32`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use downbeat_api::{Cpu, CpuTime, Memory};

use crate::roots::Roots;

/// The host at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct System {
    /// One entry per online CPU, by number, over the time since the last read. Empty on the first
    /// read, and without a CPU that came online since, as fractions since boot would say nothing
    /// about now.
    pub cpus: Vec<Cpu>,
    /// One entry per online CPU, by number: where its time went since boot.
    pub cpu_times: Vec<CpuTime>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory.
    pub memory: Memory,
}

/// What changes whenever a thread or a process comes or goes, and else does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Births {
    /// Threads of the host.
    threads: u64,
    /// The id that was given out last.
    latest: u32,
}

/// Reads the host below a root.
#[derive(Debug)]
pub struct SystemReader {
    proc: PathBuf,
    cpus: BTreeMap<u32, Baseline>,
}

/// A CPU's counters when they last moved, and what came of it.
#[derive(Clone, Copy, Debug)]
struct Baseline {
    ticks: Ticks,
    use_: Option<Cpu>,
}

impl SystemReader {
    /// A reader below `roots.proc`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self { proc: roots.proc.clone(), cpus: BTreeMap::new() }
    }

    /// The host now. What cannot be read stays at its default.
    pub fn read(&mut self) -> System {
        let ticks = self.ticks();
        System {
            cpu_times: ticks.iter().map(|(id, ticks)| ticks.seconds(*id)).collect(),
            cpus: self.cpus(ticks),
            load: read_line(&self.proc.join("loadavg"))
                .ok()
                .and_then(|line| parse_load(&line))
                .unwrap_or_default(),
            memory: File::open(self.proc.join("meminfo"))
                .map(|file| parse_memory(BufReader::new(file)))
                .unwrap_or_default(),
        }
    }

    /// Where each online CPU's time went since boot, and nothing else.
    #[must_use]
    pub fn cpu_times(&self) -> Vec<CpuTime> {
        self.ticks().iter().map(|(id, ticks)| ticks.seconds(*id)).collect()
    }

    /// Nothing where the kernel does not tell.
    #[must_use]
    pub fn births(&self) -> Option<Births> {
        parse_births(&read_line(&self.proc.join("loadavg")).ok()?)
    }

    fn ticks(&self) -> BTreeMap<u32, Ticks> {
        File::open(self.proc.join("stat"))
            .map(|file| parse_stat(BufReader::new(file)))
            .unwrap_or_default()
    }

    fn cpus(&mut self, now: BTreeMap<u32, Ticks>) -> Vec<Cpu> {
        // One that went offline starts anew when it returns.
        self.cpus.retain(|id, _| now.contains_key(id));
        for (id, ticks) in now {
            let baseline = self.cpus.entry(id).or_insert(Baseline { ticks, use_: None });
            // Two reads within one clock tick see nothing move; the last fractions still hold.
            if let Some(fractions) = ticks.since(baseline.ticks).fractions(id) {
                *baseline = Baseline { ticks, use_: Some(fractions) };
            }
        }
        self.cpus.values().filter_map(|cpu| cpu.use_).collect()
    }
}

/// One CPU's counters in clock ticks; what `/proc/stat` calls guest time is in `user` already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    user: u64,
    nice: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    irq: u64,
    softirq: u64,
    steal: u64,
}

impl Ticks {
    /// What passed; a counter that ran backwards (idle and I/O wait may, by a tick) counts as
    /// still.
    fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            nice: self.nice.saturating_sub(before.nice),
            system: self.system.saturating_sub(before.system),
            idle: self.idle.saturating_sub(before.idle),
            iowait: self.iowait.saturating_sub(before.iowait),
            irq: self.irq.saturating_sub(before.irq),
            softirq: self.softirq.saturating_sub(before.softirq),
            steal: self.steal.saturating_sub(before.steal),
        }
    }

    fn seconds(self, id: u32) -> CpuTime {
        let per_second = procfs::ticks_per_second() as f64;
        let seconds = |ticks: u64| ticks as f64 / per_second;
        CpuTime {
            id,
            user: seconds(self.user),
            nice: seconds(self.nice),
            system: seconds(self.system),
            idle: seconds(self.idle),
            iowait: seconds(self.iowait),
            irq: seconds(self.irq),
            softirq: seconds(self.softirq),
            steal: seconds(self.steal),
        }
    }

    /// Shares of the ticks' own sum, so that they always add up to one; nothing when it is 0.
    fn fractions(self, id: u32) -> Option<Cpu> {
        let Self { user, nice, system, idle, iowait, irq, softirq, steal } = self;
        let (user, irq) = (user + nice, irq + softirq);
        let busy = user + system + irq;
        let total = busy + idle + iowait + steal;
        if total == 0 {
            return None;
        }
        let share = |ticks: u64| ticks as f64 / total as f64;
        Some(Cpu {
            id,
            busy: share(busy),
            user: share(user),
            system: share(system),
            irq: share(irq),
            iowait: share(iowait),
            steal: share(steal),
        })
    }
}

/// The `cpuN` lines, which stand first; a malformed line costs its CPU.
fn parse_stat(mut reader: impl BufRead) -> BTreeMap<u32, Ticks> {
    let mut cpus = BTreeMap::new();
    let mut line = String::new();
    while matches!(reader.read_line(&mut line), Ok(1..)) {
        let Some(rest) = line.strip_prefix("cpu") else {
            break;
        };
        if let Some((id, ticks)) = parse_cpu(rest) {
            cpus.insert(id, ticks);
        }
        line.clear();
    }
    cpus
}

fn parse_cpu(line: &str) -> Option<(u32, Ticks)> {
    let (id, counters) = line.split_once(' ')?;
    let id = id.parse().ok()?;
    let mut fields = counters.split_ascii_whitespace().map(str::parse::<u64>);
    // A sum over the life of a machine cannot come near u64::MAX, and a damaged file must not
    // overflow the sums above.
    let mut next = || fields.next()?.ok().map(|ticks| ticks.min(u64::MAX / 16));
    let (user, nice, system, idle) = (next()?, next()?, next()?, next()?);
    let (iowait, irq, softirq) = (next().unwrap_or(0), next().unwrap_or(0), next().unwrap_or(0));
    let steal = next().unwrap_or(0);
    Some((id, Ticks { user, nice, system, idle, iowait, irq, softirq, steal }))
}

fn parse_load(line: &str) -> Option<[f64; 3]> {
    let mut fields = line.split_ascii_whitespace().map(str::parse::<f64>);
    let mut next = || fields.next()?.ok().filter(|load| load.is_finite());
    Some([next()?, next()?, next()?])
}

/// Behind the averages: `running/threads latest`.
fn parse_births(line: &str) -> Option<Births> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (_, threads) = fields.next()?.split_once('/')?;
    Some(Births { threads: threads.parse().ok()?, latest: fields.next()?.parse().ok()? })
}

fn parse_memory(reader: impl BufRead) -> Memory {
    let mut memory = Memory::default();
    for line in reader.lines().map_while(Result::ok) {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let field = match key {
            "MemTotal" => &mut memory.total,
            "MemAvailable" => &mut memory.available,
            "SwapTotal" => &mut memory.swap_total,
            "SwapFree" => &mut memory.swap_free,
            _ => continue,
        };
        let kibibytes = value.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        *field = kibibytes.saturating_mul(1024);
    }
    memory
}

fn read_line(path: &Path) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(File::open(path)?).read_line(&mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    struct Host {
        folder: tempfile::TempDir,
    }

    impl Host {
        fn new(files: &[(&str, &str)]) -> Self {
            let host = Self { folder: tempfile::tempdir().unwrap() };
            for (name, text) in files {
                host.write(name, text);
            }
            host
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn reader(&self) -> SystemReader {
            SystemReader::new(&Roots { proc: self.folder.path().into(), ..Roots::default() })
        }
    }

    const BOOT: &str = "cpu  200 0 100 700 0 0 0 0 0 0\n\
                        cpu0 100 0 50 350 0 0 0 0 0 0\n\
                        cpu1 100 0 50 350 0 0 0 0 0 0\n\
                        intr 12345 0 0\nctxt 5\n";

    #[test]
    fn the_first_read_has_no_cpus_and_the_second_has_the_interval() {
        let host = Host::new(&[("stat", BOOT)]);
        let mut reader = host.reader();
        assert_eq!(reader.read().cpus, []);
        host.write(
            "stat",
            "cpu0 110 10 60 390 10 5 5 10 3 0\ncpu1 100 0 50 450 0 0 0 0 0 0\nintr 1\n",
        );
        let cpus = reader.read().cpus;
        assert_eq!(
            cpus[0],
            Cpu { id: 0, busy: 0.4, user: 0.2, system: 0.1, irq: 0.1, iowait: 0.1, steal: 0.1 }
        );
        assert_eq!((cpus[1].id, cpus[1].busy), (1, 0.0));
    }

    #[test]
    fn times_since_boot_keep_hard_and_soft_interrupts_apart() {
        let host = Host::new(&[("stat", "cpu2 100 50 25 400 10 5 3 7 90 0\nintr 1\n")]);
        let mut reader = host.reader();
        let per_second = procfs::ticks_per_second() as f64;
        let time = reader.read().cpu_times[0];
        let ticks = |seconds: f64| (seconds * per_second).round();
        assert_eq!(
            [time.user, time.nice, time.irq, time.softirq, time.steal].map(ticks),
            [100.0, 50.0, 5.0, 3.0, 7.0]
        );
        assert_eq!((time.id, reader.cpu_times()), (2, vec![time]));
    }

    #[test]
    fn reads_within_one_clock_tick_repeat_the_last_fractions() {
        let host = Host::new(&[("stat", BOOT)]);
        let mut reader = host.reader();
        reader.read();
        host.write("stat", "cpu0 150 0 50 400 0 0 0 0 0 0\n");
        let first = reader.read().cpus;
        assert_eq!(first[0].busy, 0.5);
        assert_eq!(reader.read().cpus, first);
    }

    #[test]
    fn a_cpu_that_goes_and_comes_back_keeps_its_number_and_starts_anew() {
        let host = Host::new(&[("stat", BOOT)]);
        let mut reader = host.reader();
        reader.read();
        host.write("stat", "cpu1 200 0 50 350 0 0 0 0 0 0\n");
        let ids = |cpus: &[Cpu]| cpus.iter().map(|cpu| cpu.id).collect::<Vec<_>>();
        assert_eq!(ids(&reader.read().cpus), [1]);
        host.write("stat", "cpu0 0 0 0 9 0 0 0 0 0 0\ncpu1 200 0 50 360 0 0 0 0 0 0\n");
        assert_eq!(ids(&reader.read().cpus), [1]);
        host.write("stat", "cpu0 0 0 0 19 0 0 0 0 0 0\ncpu1 200 0 50 370 0 0 0 0 0 0\n");
        assert_eq!(ids(&reader.read().cpus), [0, 1]);
    }

    #[test]
    fn idle_time_that_runs_backwards_is_no_time() {
        let before = Ticks { idle: 100, user: 10, ..Ticks::default() };
        let after = Ticks { idle: 99, user: 20, ..Ticks::default() };
        assert_eq!(after.since(before).fractions(0).unwrap().busy, 1.0);
    }

    #[test]
    fn load_and_memory_have_their_units() {
        let host = Host::new(&[
            ("loadavg", "1.23 0.50 0.05 2/345 6789\n"),
            (
                "meminfo",
                "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n\
                 SwapTotal:        512 kB\nSwapFree:         256 kB\nHugePages_Total: 3\n",
            ),
        ]);
        let system = host.reader().read();
        assert_eq!(system.load, [1.23, 0.5, 0.05]);
        assert_eq!(
            system.memory,
            Memory {
                total: 2 << 20,
                available: 1 << 20,
                swap_total: 512 << 10,
                swap_free: 256 << 10
            }
        );
    }

    #[test]
    fn whatever_comes_or_goes_changes_what_is_told_of_births() {
        let host = Host::new(&[("loadavg", "1.23 0.50 0.05 2/345 6789\n")]);
        let reader = host.reader();
        let before = reader.births();
        assert_eq!(before, Some(Births { threads: 345, latest: 6789 }));
        // The load is another, and nobody came or went.
        host.write("loadavg", "0.00 0.50 0.05 1/345 6789\n");
        assert_eq!(reader.births(), before);
        for changed in ["1.23 0.50 0.05 2/344 6789\n", "1.23 0.50 0.05 2/345 6790\n"] {
            host.write("loadavg", changed);
            assert!(reader.births().is_some_and(|births| Some(births) != before), "{changed}");
        }
        host.write("loadavg", "1.23 0.50 0.05\n");
        assert_eq!(reader.births(), None);
    }

    #[test]
    fn this_machine_tells_of_a_birth() {
        let reader = SystemReader::new(&Roots::default());
        let before = reader.births();
        std::process::Command::new("true").status().unwrap();
        assert!(before.is_some() && reader.births() != before);
    }

    #[test]
    fn a_host_without_any_of_the_files_is_read_as_empty() {
        let host = Host::new(&[]);
        assert_eq!(host.reader().births(), None);
        assert_eq!(host.reader().read(), System::default());
    }

    #[test]
    fn this_machine_is_busy_somewhere_and_idle_somewhere() {
        let mut reader = SystemReader::new(&Roots::default());
        reader.read();
        std::thread::sleep(std::time::Duration::from_millis(60));
        let system = reader.read();
        assert!(!system.cpus.is_empty());
        for cpu in &system.cpus {
            assert!((0.0..=1.0).contains(&cpu.busy), "{cpu:?}");
        }
        assert!(system.memory.total > system.memory.available);
    }

    proptest! {
        #[test]
        fn no_text_in_the_files_panics(text in "(cpu|MemTotal:|[0-9]{1,21}|[ \n:a-z.])*") {
            let host = Host::new(&[
                ("stat", &text), ("loadavg", &text), ("meminfo", &text),
            ]);
            let mut reader = host.reader();
            reader.read();
            for cpu in reader.read().cpus {
                prop_assert!((0.0..=1.0).contains(&cpu.busy));
            }
        }
    }
}
