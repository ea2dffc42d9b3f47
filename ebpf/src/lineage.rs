//! Which processes come from one that the agent has changed. These two programs and their map are
//! pinned, so they go on after the agent was killed: what its children's children inherited is found
//! by `downbeat restore`, although their parents have ended.

use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use downbeat_abi::{Counter, LINEAGE_PROCESSES, Origin};

use crate::maps::count;
use crate::task::Task;

/// [`Origin`] as a word, by process. The agent puts in each process that it changes.
#[map]
static LINEAGE: HashMap<u32, u64> = HashMap::with_max_entries(LINEAGE_PROCESSES, 0);

/// A child of a process that is here is here as well, before it first runs.
#[inline(always)]
pub fn fork(parent: Task, child: Task) {
    let pid = child.tgid();
    if pid != child.tid() {
        return;
    }
    let Some(origin) = origin(parent.tgid()) else {
        // The id's last owner may have been put in after it had ended.
        if origin(pid).is_some() {
            let _ = LINEAGE.remove(pid);
        }
        return;
    };
    if LINEAGE.insert(pid, origin.passed_on_by(parent.tid()).to_word(), 0).is_err() {
        count(Counter::DroppedChildren);
    }
}

/// A process is forgotten with its last thread.
#[inline(always)]
pub fn exit(task: Task) {
    let pid = task.tgid();
    if origin(pid).is_some() && task.is_last() {
        let _ = LINEAGE.remove(pid);
    }
}

#[inline(always)]
fn origin(pid: u32) -> Option<Origin> {
    // SAFETY: a word, which is read at once.
    unsafe { LINEAGE.get(pid) }.map(|word| Origin::from_word(*word))
}
