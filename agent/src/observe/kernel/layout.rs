//! What the programs must know of this kernel's own structures.

use downbeat_abi::global;

use super::Limit;
use crate::observe::btf::{BtfError, KernelTypes};

/// A field whose offset goes into a global.
struct Field {
    global: &'static str,
    structure: &'static str,
    /// Its names over the kernel's versions, newest first.
    paths: &'static [&'static str],
    /// What is lost without it; nothing runs without the others.
    optional: Option<&'static str>,
}

const fn task(
    global: &'static str,
    paths: &'static [&'static str],
    optional: Option<&'static str>,
) -> Field {
    Field { global, structure: "task_struct", paths, optional }
}

const NO_OWN: &str = "waits for threads of the own process are blamed on its class";

const FIELDS: [Field; 14] = [
    task(global::TASK_PID, &["pid"], None),
    task(global::TASK_TGID, &["tgid"], None),
    task(global::TASK_REAL_PARENT, &["real_parent"], None),
    // Renamed in 5.14. The low half of the older, longer field is what counts.
    task(global::TASK_STATE, &["__state", "state"], None),
    task(global::TASK_COMM, &["comm"], Some("programs without a class are blamed without name")),
    task(
        global::TASK_GROUP_LEADER,
        &["group_leader"],
        Some("programs without a class are blamed without name"),
    ),
    task(global::TASK_FLAGS, &["flags"], Some("kernel threads are blamed as programs")),
    // Moved into thread_info in 5.16 on x86.
    task(
        global::TASK_CPU,
        &["thread_info.cpu", "cpu"],
        Some("waits are blamed on the first CPU's occupants"),
    ),
    task(
        global::TASK_EXEC,
        &["se.sum_exec_runtime"],
        Some("no CPU cost of jobs, and no time stolen by a hypervisor"),
    ),
    task(global::TASK_MAJ_FLT, &["maj_flt"], Some("waits for pages count as waits for a disk")),
    task(global::TASK_SIGNAL, &["signal"], Some(NO_OWN)),
    Field {
        global: global::SIGNAL_THREADS,
        structure: "signal_struct",
        paths: &["nr_threads"],
        optional: Some(NO_OWN),
    },
    Field {
        global: global::SIGNAL_LIVE,
        structure: "signal_struct",
        paths: &["live"],
        optional: Some("ended processes take room among those that come from a managed one"),
    },
    Field {
        global: global::TIMER_EXPIRES,
        structure: "hrtimer",
        paths: &["_softexpires"],
        optional: Some("a timer's release counts from its wake-up and not from its due time"),
    },
];

/// Offsets and facts by the name of the global that takes them.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) globals: Vec<(&'static str, u32)>,
    pub(super) limits: Vec<Limit>,
}

/// Looks up everything.
///
/// # Errors
/// [`BtfError`] where a field is missing without which nothing runs.
pub(super) fn layout(types: &KernelTypes<'_>) -> Result<Layout, BtfError> {
    let mut layout = Layout { globals: Vec::new(), limits: Vec::new() };
    for field in &FIELDS {
        let mut found = Err(BtfError::Magic);
        for path in field.paths {
            found = types.field_offset(field.structure, path);
            if found.is_ok() {
                break;
            }
        }
        layout.take(field.global, found, field.optional)?;
    }
    let lost = Some("waits for a disk count as other sleeps");
    let (byte, mask) = match types.bit("task_struct", "in_iowait") {
        Ok((byte, mask)) => (Ok(byte), mask),
        Err(error) => (Err(error), 0),
    };
    layout.take(global::TASK_IN_IOWAIT, byte, lost)?;
    layout.globals.push((global::IN_IOWAIT_MASK, mask.into()));
    let has_state = types.tracepoint_arguments("sched_switch").is_some_and(|n| n >= 4);
    layout.globals.push((global::SWITCH_HAS_STATE, has_state.into()));
    Ok(layout)
}

impl Layout {
    fn take(
        &mut self,
        global: &'static str,
        offset: Result<u32, BtfError>,
        optional: Option<&'static str>,
    ) -> Result<(), BtfError> {
        match (offset, optional) {
            (Ok(offset), _) => self.globals.push((global, offset)),
            (Err(error), Some(lost)) => {
                self.globals.push((global, 0));
                self.limits.push(Limit { feature: lost.to_owned(), reason: error.to_string() });
            }
            (Err(error), None) => return Err(error),
        }
        Ok(())
    }
}
