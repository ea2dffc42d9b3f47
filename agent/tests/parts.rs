//! What an older kernel or a stricter verifier may refuse is not in the programs at all where it is
//! switched off. Needs root; alone in its process, whose programs are told by its descriptors.

use std::collections::HashSet;
use std::fs;

use aya::programs::loaded_programs;
use downbeat_agent::observe::kernel::{KernelProbes, ProbeOptions};
use downbeat_agent::roots::Roots;

/// Bytes of each program as the kernel runs it, by name.
fn translated(options: &ProbeOptions) -> Vec<(String, u32)> {
    let _probes =
        KernelProbes::load(&Roots::default(), options).expect("the programs load as root");
    let own: HashSet<u32> = fs::read_dir("/proc/self/fdinfo")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| {
            text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
        })
        .collect();
    loaded_programs()
        .flatten()
        .filter(|program| own.contains(&program.id()))
        .filter_map(|program| Some((program.name_as_str()?.to_owned(), program.size_translated()?)))
        .collect()
}

#[test]
fn without_blame_nothing_of_it_is_loaded() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: needs root");
    }
    let with = translated(&ProbeOptions::default());
    let without = translated(&ProbeOptions { blame: false, ..Default::default() });
    for program in ["sched_switch", "softirq_exit"] {
        let size = |of: &[(String, u32)]| {
            let found = of.iter().find(|(name, _)| name == program);
            found.unwrap_or_else(|| panic!("no {program} in {of:?}")).1
        };
        println!("{program}: {} bytes, {} without blame", size(&with), size(&without));
        assert!(size(&without) * 4 < size(&with) * 3, "{program}");
    }
}
