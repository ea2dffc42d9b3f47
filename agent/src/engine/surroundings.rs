//! What the rest of the host does: read, kept for a while, and put into the picture.

use std::collections::{BTreeMap, BTreeSet};

use downbeat_api::{ClassCgroups, HostLoad, Pressure};

use super::Engine;
use super::threads::monotonic_ns;
use crate::model::host_history::HostHistory;
use crate::observe::cgroups::{CgroupReader, Member};
use crate::observe::interrupts::InterruptReader;
use crate::observe::pacer::{Pacer, cpu_time};
use crate::observe::pressure::PressureReader;
use crate::observe::system::{System, SystemReader};
use crate::roots::Roots;

/// The part of one core that reading at the ticks between two samples may take. `/proc/stat` costs
/// the kernel a sum over all CPUs for each interrupt, which on a large host is milliseconds.
const PARTS: u32 = 1000;

/// The readers, and what they told last.
#[derive(Debug)]
pub(super) struct Surroundings {
    pressure: PressureReader,
    cgroups: CgroupReader,
    interrupts: InterruptReader,
    history: HostHistory,
    pacer: Pacer,
    /// As of the last sample.
    load: HostLoad,
    /// Groups per class as of the last sample.
    classes: BTreeMap<String, ClassCgroups>,
}

impl Surroundings {
    pub(super) fn new(roots: &Roots) -> Self {
        Self {
            pressure: PressureReader::new(roots),
            cgroups: CgroupReader::new(roots),
            interrupts: InterruptReader::new(roots),
            history: HostHistory::default(),
            pacer: Pacer::new(PARTS),
            load: HostLoad::default(),
            classes: BTreeMap::new(),
        }
    }

    /// What the host does, as of the last sample.
    pub(super) fn load(&self) -> &HostLoad {
        &self.load
    }

    /// The averages over 10 s, where the kernel has them.
    pub(super) fn averages(&self) -> Option<Pressure> {
        self.load.pressure.map(|pressure| Pressure {
            cpu: pressure.cpu.some.avg10,
            memory: pressure.memory.some.avg10,
            io: pressure.io.some.avg10,
        })
    }

    /// The groups of a class, as of the last sample.
    pub(super) fn of_class(&self, class: &str) -> Option<&ClassCgroups> {
        self.classes.get(class)
    }

    /// Between two samples: what tells why a frame was late, where it costs little.
    fn tick(&mut self, now_ns: u64, system: &SystemReader) {
        if !self.pacer.is_due(now_ns) {
            return;
        }
        let begun = cpu_time();
        self.history.throttled(self.cgroups.tick(now_ns));
        self.history.cpu_times(now_ns, &system.cpu_times());
        if let Ok(totals) = self.pressure.totals() {
            self.history.pressure(now_ns, totals);
        }
        self.pacer.spent(now_ns, cpu_time().saturating_sub(begun));
    }

    fn sample(&mut self, now_ns: u64, system: &System, members: &[Member<'_>]) {
        self.history.throttled(self.cgroups.tick(now_ns));
        self.history.cpu_times(now_ns, &system.cpu_times);
        self.classes = self.cgroups.sample(now_ns, members);
        let (pressure, pressure_missing) = match self.pressure.read(now_ns) {
            Ok((pressure, totals)) => {
                self.history.pressure(now_ns, totals);
                (Some(pressure), None)
            }
            Err(reason) => (None, Some(reason)),
        };
        let interrupts = if self.interrupts.is_due(now_ns) {
            self.interrupts.read(now_ns)
        } else {
            self.load.interrupts.take()
        };
        let cpu_times = system.cpu_times.clone();
        self.load = HostLoad { pressure, pressure_missing, cpu_times, interrupts };
    }
}

impl Engine {
    /// What the host took over the last half minute: quotas, steal, pressure.
    #[must_use]
    pub fn host_history(&self) -> &HostHistory {
        &self.surroundings.history
    }

    /// Who handles an interrupt, as of the last sample.
    #[must_use]
    pub fn irq_name(&self, number: u32) -> Option<&str> {
        self.surroundings.interrupts.irq_name(number)
    }

    /// Reads what the rest of the host did since the last tick.
    pub(super) fn watch_surroundings(&mut self) {
        self.surroundings.tick(monotonic_ns(), &self.system);
    }

    /// The same at a sample, with what is read only there.
    pub(super) fn sample_surroundings(&mut self) {
        let classes = &self.policy.set.classes;
        let members: Vec<Member<'_>> = self
            .world
            .followed()
            .flat_map(|process| {
                let of = |thread: &crate::model::Thread| Some(thread.classified?.class);
                let indices: BTreeSet<usize> = process.threads.values().filter_map(of).collect();
                indices.into_iter().filter_map(|index| {
                    let class = &classes.get(index)?.name;
                    let (pid, start_time, cpu) = (process.pid, process.start_time, process.cpu);
                    Some(Member { class, pid, start_time, cpu })
                })
            })
            .collect();
        self.surroundings.sample(monotonic_ns(), &self.latest_system, &members);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            for resource in ["cpu", "memory", "io"] {
                host.press(resource, 0);
            }
            host.steal(0);
            host.write("interrupts", "  CPU0\n 5: 10 chip 5-edge  disk\n");
            host.write("softirqs", "  CPU0\n TIMER: 10\n");
            host
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn press(&self, resource: &str, total: u64) {
            let text = format!("some avg10=2.00 avg60=0.00 avg300=0.00 total={total}\n");
            self.write(&format!("pressure/{resource}"), &text);
        }

        fn steal(&self, ticks: u64) {
            self.write("stat", &format!("cpu0 1 0 1 100 0 0 0 {ticks} 0 0\nintr 1\n"));
        }

        fn readers(&self) -> (Surroundings, SystemReader) {
            let roots = Roots { proc: self.0.path().into(), ..Roots::default() };
            (Surroundings::new(&roots), SystemReader::new(&roots))
        }
    }

    #[test]
    fn ticks_fill_the_history_and_samples_the_picture() {
        let host = Host::new();
        let (mut surroundings, mut system) = host.readers();
        surroundings.sample(0, &system.read(), &[]);
        host.steal(5);
        host.press("io", 100_000);
        // A tick is due again after a thousand times what the last one cost, and this is the first.
        surroundings.tick(SECOND / 4, &system);
        let stolen = surroundings.history.steal_between(Some(0), 0, SECOND / 4).unwrap();
        let ticks = procfs::ticks_per_second();
        assert_eq!(stolen.ns, 5 * SECOND / ticks);
        let span = surroundings.history.pressure_between(0, SECOND / 4).unwrap();
        assert_eq!((span.waits.io_some, span.span_ns()), (100_000, SECOND / 4));

        host.press("io", 250_000);
        host.write("interrupts", "  CPU0\n 5: 30 chip 5-edge  disk\n");
        surroundings.sample(20 * SECOND, &system.read(), &[]);
        let load = surroundings.load();
        assert_eq!(load.pressure.unwrap().io.some.share, Some(0.0125));
        assert_eq!(load.interrupts.as_ref().unwrap().devices[0].rate, 1.0);
        assert_eq!(surroundings.averages().unwrap().io, 0.02);
        assert_eq!(surroundings.interrupts.irq_name(5), Some("disk"));
        let span = surroundings.history.pressure_between(SECOND, 2 * SECOND).unwrap();
        assert_eq!(span.waits.io_some, 150_000, "the sample is the next reading after the tick");
    }

    #[test]
    fn without_pressure_one_reason_is_given_and_nothing_is_zero() {
        let host = Host::new();
        fs::remove_dir_all(host.0.path().join("pressure")).unwrap();
        let (mut surroundings, mut system) = host.readers();
        surroundings.sample(0, &system.read(), &[]);
        surroundings.tick(SECOND, &system);
        assert_eq!((surroundings.load().pressure, surroundings.averages()), (None, None));
        assert!(surroundings.load().pressure_missing.as_deref().unwrap().contains("psi=1"));
        assert_eq!(surroundings.history.pressure_between(0, SECOND), None);
    }
}
