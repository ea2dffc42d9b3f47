//! What this process may do.

use downbeat_api::Finding;

use super::finding::{absent, limited, present};
use super::text;
use crate::roots::Roots;

/// The capabilities that downbeat has a use for: name, bit, and what is lost without it. Bits are
/// those of `linux/capability.h`.
const USED: [(&str, u32, &str); 8] = [
    ("CAP_SYS_NICE", 23, "no priority, policy or affinity of others can be set"),
    ("CAP_BPF", 39, "no kernel programs"),
    ("CAP_PERFMON", 38, "kernel programs cannot attach to tracepoints"),
    ("CAP_SYS_PTRACE", 19, "executables of other users cannot be matched"),
    ("CAP_SYS_RESOURCE", 24, "oom_score_adj cannot be lowered"),
    ("CAP_DAC_READ_SEARCH", 2, "files of other users' processes cannot be read"),
    ("CAP_KILL", 5, "the pool's workers of another user cannot be ended"),
    ("CAP_SYS_ADMIN", 21, "no run statistics of kernel programs"),
];

const REMEDY: &str =
    "run downbeatd as root, or give its unit AmbientCapabilities= with the names above";

/// Effective user and capabilities.
#[derive(Debug)]
pub(super) struct Privileges {
    uid: Option<u32>,
    effective: Option<u64>,
}

impl Privileges {
    /// From `self/status` below `roots.proc`.
    pub(super) fn read(roots: &Roots) -> Self {
        let status = text(roots.proc.join("self/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        Self {
            // Real, effective, saved and file system uid.
            uid: field("Uid:").and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok()),
            effective: field("CapEff:").and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()),
        }
    }

    /// Whether the effective user is root.
    pub(super) fn root(&self) -> bool {
        self.uid == Some(0)
    }

    /// Whether a capability of the table above is held; `CAP_SYS_ADMIN` stands in for the two
    /// that were split from it in kernel 5.8.
    pub(super) fn has(&self, name: &str) -> bool {
        let held = |name: &str| {
            let effective = self.effective.unwrap_or(0);
            USED.iter().any(|(known, bit, _)| *known == name && effective >> bit & 1 == 1)
        };
        held(name) || matches!(name, "CAP_BPF" | "CAP_PERFMON") && held("CAP_SYS_ADMIN")
    }

    /// What is held, and what each missing capability costs.
    pub(super) fn finding(&self) -> Finding {
        let id = "privileges";
        let Some(uid) = self.uid else {
            return absent(id, "unknown: /proc/self/status cannot be read", Some("mount /proc"));
        };
        let who = if uid == 0 { "root".to_owned() } else { format!("uid {uid}") };
        let missing: Vec<_> = USED.iter().filter(|(name, _, _)| !self.has(name)).collect();
        if missing.is_empty() {
            return present(id, format!("{who}, with every capability that downbeat uses"));
        }
        let list = missing
            .iter()
            .map(|(name, _, lost)| format!("{name} ({lost})"))
            .collect::<Vec<_>>()
            .join(", ");
        if uid == 0 {
            let remedy = "something took them from root: in a container add them (--cap-add), in a \
                          unit widen CapabilityBoundingSet=";
            return limited(id, format!("{who}, without {list}"), Some(remedy));
        }
        if missing.len() == USED.len() {
            return absent(id, format!("{who}, without {list}"), Some(REMEDY));
        }
        limited(id, format!("{who}, without {list}"), Some(REMEDY))
    }
}
