//! CPUs of a class on this host.

use downbeat_api::HostFacts;
use downbeat_policy::{CpuChoice, CpuGroup};

/// The CPUs of a choice that this host has; nothing when it has none of them.
pub(super) fn cpus(choice: &CpuChoice, host: &HostFacts) -> Option<Vec<u32>> {
    let chosen = choice.resolve(&host.cpus, |group| match group {
        CpuGroup::All => Some(host.cpus.clone()),
        _ => None,
    });
    (!chosen.cpus.is_empty()).then_some(chosen.cpus)
}
