//! Interrupts, hard and soft, as rates by source and CPU.
//!
//! The kernel writes a number per source and CPU, so that a host with 256 CPUs has a file of a
//! megabyte. The files are read at the sample and never at the tick, and less often where they
//! cost more than a five-hundredth of one core.

mod table;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use downbeat_api::{Interrupt, Interrupts, SoftInterrupt};

pub use table::{Delta, Row, Table};

use super::pacer::{Pacer, cpu_time};
use crate::roots::Roots;

/// Sources that are shown, of devices and of the processor each.
const SOURCES: usize = 8;

/// CPUs that are shown of each source.
const CPUS: usize = 16;

/// The part of one core that reading may take.
const PARTS: u32 = 500;

/// Reads interrupts below a root.
#[derive(Debug)]
pub struct InterruptReader {
    proc: PathBuf,
    hard: Vec<u8>,
    before: Option<Before>,
    pacer: Pacer,
    device_total: u64,
    system_total: u64,
    soft_totals: HashMap<String, u64>,
    names: HashMap<u32, String>,
}

/// The last reading.
#[derive(Debug)]
struct Before {
    ns: u64,
    hard: Table,
    soft: Table,
}

impl InterruptReader {
    /// A reader below `roots.proc`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self {
            proc: roots.proc.clone(),
            hard: Vec::new(),
            before: None,
            pacer: Pacer::new(PARTS),
            device_total: 0,
            system_total: 0,
            soft_totals: HashMap::new(),
            names: HashMap::new(),
        }
    }

    /// Who handles an interrupt, as of the last reading (`virtio0-input.0`).
    #[must_use]
    pub fn irq_name(&self, number: u32) -> Option<&str> {
        self.names.get(&number).map(String::as_str)
    }

    /// Whether another reading is within the budget; `now_ns` is monotonic.
    #[must_use]
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.pacer.is_due(now_ns)
    }

    /// Interrupts since the last reading; absent on the first, and where the kernel shows none.
    pub fn read(&mut self, now_ns: u64) -> Option<Interrupts> {
        let begun = cpu_time();
        let mut buffer = std::mem::take(&mut self.hard);
        let hard = read_table(&self.proc.join("interrupts"), &mut buffer);
        let soft = read_table(&self.proc.join("softirqs"), &mut buffer);
        self.hard = buffer;
        let told = self.fold(now_ns, hard, soft);
        self.pacer.spent(now_ns, cpu_time().saturating_sub(begun));
        told
    }

    fn fold(&mut self, now_ns: u64, hard: Table, soft: Table) -> Option<Interrupts> {
        let number_of = |row: &Row| {
            let named = row.number().filter(|_| !row.name.is_empty())?;
            Some((named, row.name.clone()))
        };
        self.names = hard.rows.iter().filter_map(number_of).collect();
        if hard.rows.is_empty() && soft.rows.is_empty() {
            self.before = None;
            return None;
        }
        let now = Before { ns: now_ns, hard, soft };
        let told = self.before.as_ref().map(|before| {
            let seconds = now_ns.saturating_sub(before.ns) as f64 / 1e9;
            let deltas = now.hard.since(&before.hard);
            let (devices, system): (Vec<Delta>, Vec<Delta>) =
                deltas.into_iter().partition(|delta| now.hard.rows[delta.row].number().is_some());
            self.device_total += devices.iter().map(|delta| delta.total).sum::<u64>();
            self.system_total += system.iter().map(|delta| delta.total).sum::<u64>();
            let soft = soft_interrupts(&now.soft, &before.soft, seconds, &mut self.soft_totals);
            Interrupts {
                seconds,
                devices: busiest(&now.hard, devices, seconds),
                system: busiest(&now.hard, system, seconds),
                soft,
                device_total: self.device_total,
                system_total: self.system_total,
            }
        });
        self.before = Some(now);
        told.filter(|told| told.seconds > 0.0)
    }
}

/// A file that cannot be read is an empty table.
fn read_table(path: &Path, buffer: &mut Vec<u8>) -> Table {
    buffer.clear();
    match File::open(path).and_then(|mut file| file.read_to_end(buffer)) {
        Ok(_) => Table::parse(buffer),
        Err(_) => Table::default(),
    }
}

/// The most frequent sources.
fn busiest(table: &Table, mut deltas: Vec<Delta>, seconds: f64) -> Vec<Interrupt> {
    deltas.sort_by_key(|delta| Reverse(delta.total));
    deltas.truncate(SOURCES);
    let interrupt = |delta: Delta| {
        let row = &table.rows[delta.row];
        Interrupt {
            number: row.number(),
            label: row.label.clone(),
            name: row.name.clone(),
            rate: delta.total as f64 / seconds,
            cpus: per_cpu(delta.cpus, seconds),
        }
    };
    deltas.into_iter().map(interrupt).collect()
}

/// All kinds, those that stood still with a rate of 0.
fn soft_interrupts(
    now: &Table,
    before: &Table,
    seconds: f64,
    totals: &mut HashMap<String, u64>,
) -> Vec<SoftInterrupt> {
    let mut deltas = now.since(before).into_iter().peekable();
    let kind = |(index, row): (usize, &Row)| {
        let delta = deltas.next_if(|delta| delta.row == index).unwrap_or_default();
        let total = totals.entry(row.label.clone()).or_default();
        *total += delta.total;
        SoftInterrupt {
            name: row.label.clone(),
            rate: delta.total as f64 / seconds,
            total: *total,
            cpus: per_cpu(delta.cpus, seconds),
        }
    };
    now.rows.iter().enumerate().map(kind).collect()
}

fn per_cpu(mut cpus: Vec<(u32, u32)>, seconds: f64) -> Vec<(u32, f64)> {
    cpus.sort_by_key(|(cpu, count)| (Reverse(*count), *cpu));
    cpus.truncate(CPUS);
    cpus.into_iter().map(|(cpu, count)| (cpu, f64::from(count) / seconds)).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;
    use std::time::Instant;

    use super::*;

    struct Host(tempfile::TempDir);

    impl Host {
        fn new(interrupts: &str, softirqs: &str) -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            host.write(interrupts, softirqs);
            host
        }

        fn write(&self, interrupts: &str, softirqs: &str) {
            fs::write(self.0.path().join("interrupts"), interrupts).unwrap();
            fs::write(self.0.path().join("softirqs"), softirqs).unwrap();
        }

        fn reader(&self) -> InterruptReader {
            InterruptReader::new(&Roots { proc: self.0.path().into(), ..Roots::default() })
        }
    }

    const SOFT: &str = "  CPU0 CPU1\n TIMER: 100 100\n NET_RX: 0 5\n";

    fn hard(disk: u32, timer: u32) -> String {
        format!(
            "  CPU0 CPU1\n 36: 0 {disk} PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0\n \
             37: 1 1 PCI-MSIX-0000:00:03.0   0-edge      virtio2-config\n\
             LOC: {timer} 50   Local timer interrupts\n"
        )
    }

    #[test]
    fn rates_cover_the_time_between_two_readings() {
        let host = Host::new(&hard(100, 50), SOFT);
        let mut reader = host.reader();
        assert_eq!(reader.read(1_000_000_000), None, "one reading says nothing of an interval");
        assert_eq!(reader.irq_name(36), Some("virtio1-req.0"));
        assert_eq!(reader.irq_name(1), None);
        host.write(&hard(300, 54), "  CPU0 CPU1\n TIMER: 110 100\n NET_RX: 0 5\n");
        let told = reader.read(3_000_000_000).unwrap();
        assert_eq!(told.seconds, 2.0);
        assert_eq!(
            told.devices,
            [Interrupt {
                number: Some(36),
                label: "36".into(),
                name: "virtio1-req.0".into(),
                rate: 100.0,
                cpus: vec![(1, 100.0)],
            }]
        );
        assert_eq!((told.system[0].label.as_str(), told.system[0].rate), ("LOC", 2.0));
        assert_eq!((told.device_total, told.system_total), (200, 4));
        let soft: Vec<_> = told.soft.iter().map(|s| (s.name.as_str(), s.rate, s.total)).collect();
        assert_eq!(soft, [("TIMER", 5.0, 10), ("NET_RX", 0.0, 0)]);
    }

    #[test]
    fn a_host_without_the_files_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut reader =
            InterruptReader::new(&Roots { proc: folder.path().into(), ..Roots::default() });
        assert_eq!((reader.read(1), reader.read(2)), (None, None));
    }

    #[test]
    fn only_the_busiest_sources_and_cpus_are_shown() {
        let table = |scale: u32| {
            let mut text: String = (0..64).map(|cpu| format!(" CPU{cpu}")).collect();
            for irq in 0..40_u32 {
                write!(text, "\n {irq}:").unwrap();
                for cpu in 0..64 {
                    write!(text, " {}", (irq + cpu) * scale).unwrap();
                }
                write!(text, " chip {irq}-edge  dev{irq}").unwrap();
            }
            text
        };
        let host = Host::new(&table(0), "");
        let mut reader = host.reader();
        reader.read(0);
        host.write(&table(1), "");
        let told = reader.read(1_000_000_000).unwrap();
        assert_eq!((told.devices.len(), told.devices[0].name.as_str()), (SOURCES, "dev39"));
        assert_eq!(told.devices[0].cpus.len(), CPUS);
        assert_eq!(told.devices[0].cpus[0], (63, 102.0));
    }

    #[test]
    fn this_machine_has_a_timer_that_ticks() {
        let mut reader = InterruptReader::new(&Roots::default());
        assert_eq!(reader.read(0), None);
        std::thread::sleep(std::time::Duration::from_millis(60));
        let told = reader.read(60_000_000).unwrap();
        assert!(!told.soft.is_empty());
        assert!(told.system.iter().chain(&told.devices).all(|irq| irq.rate > 0.0));
    }

    /// Prints what a reading costs: `cargo test --release -p downbeatd --lib interrupts --
    /// --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_256_cpus_and_300_lines() {
        let mut text: String = (0..256).map(|cpu| format!("       CPU{cpu}")).collect();
        for irq in 0..300 {
            write!(text, "\n{irq:4}:").unwrap();
            for cpu in 0..256_u32 {
                write!(text, " {:10}", irq * 1000 + cpu * 7919).unwrap();
            }
            write!(text, "  PCI-MSIX-0000:00:03.0 {irq}-edge      nvme0q{irq}").unwrap();
        }
        let host = Host::new(&text, SOFT);
        let mut reader = host.reader();
        let mut costs: Vec<_> = (1..=21)
            .map(|round| {
                let begun = Instant::now();
                reader.read(round * 1_000_000_000);
                begun.elapsed()
            })
            .collect();
        costs.sort_unstable();
        println!("{} bytes: median {:?}, worst {:?}", text.len(), costs[10], costs[20]);
    }
}
