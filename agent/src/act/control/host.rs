//! The host's own switches: interrupts, energy preference, wake-up latency.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::group::cpu_list;
use super::not_of_this;
use crate::act::subject::Subject;
use crate::act::value::{Lever, Value, cpu_ranges};
use crate::roots::Roots;

/// Files below `/proc/irq`, `/sys/devices/system/cpu` and `/dev`.
#[derive(Debug)]
pub(super) struct HostFiles {
    roots: Roots,
    /// The request for a wake-up latency, which holds for as long as the file is open.
    latency: Mutex<Option<(u32, File)>>,
}

impl HostFiles {
    pub(super) fn new(roots: &Roots) -> Self {
        Self { roots: roots.clone(), latency: Mutex::new(None) }
    }

    pub(super) fn read(&self, lever: Lever, subject: &Subject) -> io::Result<Value> {
        match (lever, subject) {
            (Lever::IrqAffinity, Subject::Irq(number)) => {
                let text = fs::read_to_string(self.irq(*number))?;
                cpu_list(&text).map(Value::IrqAffinity)
            }
            (Lever::Energy, Subject::Frequency(number)) => {
                let text = fs::read_to_string(self.energy(*number))?;
                Ok(Value::Energy(text.trim().to_owned()))
            }
            (Lever::WakeupLatency, Subject::Host) => {
                let held = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(Value::WakeupLatency(held.as_ref().map(|(us, _)| *us)))
            }
            _ => Err(not_of_this(lever)),
        }
    }

    pub(super) fn write(&self, subject: &Subject, value: &Value) -> io::Result<()> {
        match (value, subject) {
            (Value::IrqAffinity(cpus), Subject::Irq(number)) => {
                // The kernel answers EIO, EINVAL or ENOSPC for an interrupt that cannot move.
                fs::write(self.irq(*number), cpu_ranges(cpus))
            }
            (Value::Energy(preference), Subject::Frequency(number)) => {
                fs::write(self.energy(*number), preference)
            }
            (Value::WakeupLatency(wanted), Subject::Host) => self.hold_latency(*wanted),
            _ => Err(not_of_this(value.lever())),
        }
    }

    /// Every CPU that the host may ever have.
    pub(super) fn possible_cpus(&self) -> Option<Vec<u32>> {
        let path = self.roots.sys.join("devices/system/cpu/possible");
        cpu_list(&fs::read_to_string(path).ok()?).ok()
    }

    fn hold_latency(&self, wanted: Option<u32>) -> io::Result<()> {
        let mut held = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(us) = wanted else {
            *held = None;
            return Ok(());
        };
        let path = self.roots.dev.join("cpu_dma_latency");
        let lacks = |error: io::Error| {
            io::Error::other(format!("{}: {error}; run downbeatd as root", path.display()))
        };
        let mut file = OpenOptions::new().write(true).open(&path).map_err(lacks)?;
        // Four bytes are taken as a number, others as text (kernel/power/qos.c).
        file.write_all(&us.to_ne_bytes()).map_err(lacks)?;
        *held = Some((us, file));
        Ok(())
    }

    fn irq(&self, number: u32) -> PathBuf {
        self.roots.proc.join(format!("irq/{number}/smp_affinity_list"))
    }

    fn energy(&self, number: u32) -> PathBuf {
        let name = format!("devices/system/cpu/cpufreq/policy{number}");
        self.roots.sys.join(name).join("energy_performance_preference")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(dir: &tempfile::TempDir) -> Roots {
        let at = |name: &str| dir.path().join(name);
        Roots { proc: at("proc"), sys: at("sys"), dev: at("dev") }
    }

    #[test]
    fn an_interrupt_and_a_preference_are_read_and_set() {
        let dir = tempfile::tempdir().unwrap();
        let files = HostFiles::new(&roots(&dir));
        for (path, text) in [(files.irq(24), "0-3\n"), (files.energy(2), "balance_power\n")] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let irq = Subject::Irq(24);
        let now = files.read(Lever::IrqAffinity, &irq).unwrap();
        assert_eq!(now, Value::IrqAffinity(vec![0, 1, 2, 3]));
        files.write(&irq, &Value::IrqAffinity(vec![0, 2, 3])).unwrap();
        assert_eq!(fs::read_to_string(files.irq(24)).unwrap(), "0,2-3");

        let domain = Subject::Frequency(2);
        files.write(&domain, &Value::Energy("performance".into())).unwrap();
        let now = files.read(Lever::Energy, &domain).unwrap();
        assert_eq!(now, Value::Energy("performance".into()));
        let gone = files.read(Lever::Energy, &Subject::Frequency(3)).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_latency_is_four_bytes_in_a_file_that_stays_open() {
        let dir = tempfile::tempdir().unwrap();
        let files = HostFiles::new(&roots(&dir));
        let wanted = Value::WakeupLatency(Some(20));
        let error = files.write(&Subject::Host, &wanted).unwrap_err();
        assert!(error.to_string().contains("cpu_dma_latency"), "{error}");
        fs::create_dir_all(dir.path().join("dev")).unwrap();
        let device = dir.path().join("dev/cpu_dma_latency");
        fs::write(&device, "").unwrap();
        files.write(&Subject::Host, &wanted).unwrap();
        assert_eq!(fs::read(&device).unwrap(), 20_u32.to_ne_bytes());
        assert_eq!(files.read(Lever::WakeupLatency, &Subject::Host).unwrap(), wanted);
        files.write(&Subject::Host, &Value::WakeupLatency(None)).unwrap();
        let now = files.read(Lever::WakeupLatency, &Subject::Host).unwrap();
        assert_eq!(now, Value::WakeupLatency(None));
    }
}
