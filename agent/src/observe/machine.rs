//! What the host's own levers act on: disks, interrupts, frequency domains.

use std::fs;
use std::path::Path;

use crate::roots::Roots;

/// Read once at the start, and again with a new policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of a page of memory.
    pub page_bytes: u64,
    /// Whole disks, by name.
    pub disks: Vec<Disk>,
    /// Interrupts that a device driver serves, ascending.
    pub irqs: Vec<u32>,
    /// Frequency domains with an energy preference, by number.
    pub domains: Vec<FrequencyDomain>,
}

/// A block device that is no part of another and no memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// As in `/dev`.
    pub name: String,
    /// `major:minor`.
    pub number: String,
}

/// CPUs whose frequency is chosen together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrequencyDomain {
    /// N of `cpufreq/policyN`.
    pub number: u32,
    /// Its CPUs.
    pub cpus: Vec<u32>,
    /// Preferences that it takes.
    pub preferences: Vec<String>,
}

/// Block devices without a disk of their own.
const NO_DISKS: [&str; 4] = ["loop", "ram", "zram", "fd"];

impl Machine {
    /// From the files below `roots`; what is not there is left out.
    #[must_use]
    pub fn read(roots: &Roots) -> Self {
        Self {
            page_bytes: page_bytes(),
            disks: disks(roots),
            irqs: irqs(roots),
            domains: domains(roots),
        }
    }
}

fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

fn disks(roots: &Roots) -> Vec<Disk> {
    let folder = roots.sys.join("block");
    let mut disks: Vec<Disk> = names(&folder)
        .into_iter()
        .filter(|name| !NO_DISKS.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit())))
        .filter_map(|name| {
            let number = fs::read_to_string(folder.join(&name).join("dev")).ok()?;
            Some(Disk { name, number: number.trim().to_owned() })
        })
        .collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

/// An interrupt that a driver serves has a folder with the driver's name in its own.
fn irqs(roots: &Roots) -> Vec<u32> {
    let folder = roots.proc.join("irq");
    let is_served = |irq: &u32| {
        let served = fs::read_dir(folder.join(irq.to_string()));
        served.is_ok_and(|entries| entries.flatten().any(|entry| entry.path().is_dir()))
    };
    let mut irqs: Vec<u32> =
        names(&folder).iter().filter_map(|name| name.parse().ok()).filter(is_served).collect();
    irqs.sort_unstable();
    irqs
}

fn domains(roots: &Roots) -> Vec<FrequencyDomain> {
    let folder = roots.sys.join("devices/system/cpu/cpufreq");
    let mut domains: Vec<FrequencyDomain> = names(&folder)
        .iter()
        .filter_map(|name| {
            let text = |file: &str| fs::read_to_string(folder.join(name).join(file)).ok();
            let preferences = text("energy_performance_available_preferences")?;
            let cpus = text("related_cpus")?;
            Some(FrequencyDomain {
                number: name.strip_prefix("policy")?.parse().ok()?,
                cpus: cpus.split_ascii_whitespace().filter_map(|cpu| cpu.parse().ok()).collect(),
                preferences: preferences.split_ascii_whitespace().map(str::to_owned).collect(),
            })
        })
        .collect();
    domains.sort_by_key(|domain| domain.number);
    domains
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_interrupts_and_domains_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let roots = Roots { proc: at("proc"), sys: at("sys"), dev: at("dev") };
        for (path, text) in [
            ("sys/block/nvme0n1/dev", "259:0\n"),
            ("sys/block/loop3/dev", "7:3\n"),
            ("sys/block/zram0/dev", "253:0\n"),
            ("proc/irq/24/smp_affinity_list", "0-3\n"),
            ("proc/irq/24/nvme0q1/x", ""),
            ("proc/irq/9/smp_affinity_list", "0-3\n"),
            ("sys/devices/system/cpu/cpufreq/policy2/related_cpus", "2 3\n"),
            (
                "sys/devices/system/cpu/cpufreq/policy2/energy_performance_available_preferences",
                "default performance power\n",
            ),
        ] {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        }
        let found = Machine::read(&roots);
        assert_eq!(found.disks, [Disk { name: "nvme0n1".into(), number: "259:0".into() }]);
        assert_eq!(found.irqs, [24]);
        assert_eq!(found.domains[0].cpus, [2, 3]);
        assert_eq!(found.domains[0].preferences, ["default", "performance", "power"]);
        let nowhere = Roots { proc: at("none"), sys: at("none"), dev: at("none") };
        let none = Machine { page_bytes: found.page_bytes, ..Machine::default() };
        assert_eq!(Machine::read(&nowhere), none);
    }
}
