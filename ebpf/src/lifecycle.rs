//! Processes and threads come, go, and change program or name.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;
use downbeat_abi::{Counter, Event, EventKind, NO_CLASS, Siblings};

use crate::events::{self, Wake};
use crate::gate;
use crate::maps::count;
use crate::task::Task;

/// A process runs another program.
#[inline(always)]
pub fn exec(ctx: &impl EbpfContext, task: Task, old_tid: u32) {
    let tid = task.tid();
    // A thread that was not the leader takes the leader's id; the leader's own entry went with
    // its exit, before this.
    if old_tid != tid
        && let Some(thread) = gate::thread(old_tid)
    {
        // SAFETY: the map's own pointer.
        let slot = unsafe { thread.as_ref().slot }.into();
        gate::forget(old_tid);
        if !gate::admit(tid, slot) {
            count(Counter::DroppedThreads);
        }
    }
    if let Some(thread) = gate::thread(tid) {
        // The others of its process are gone.
        // SAFETY: the map's own pointer.
        unsafe { (*thread.as_ptr()).siblings = Siblings::None as u8 };
    }
    let event = Event {
        tid,
        tgid: tid,
        other_tid: old_tid,
        other_tgid: task.parent().tgid(),
        ..events::new(EventKind::Exec)
    };
    debug!(ctx, "exec: tgid {}, thread before {}", event.tgid, event.other_tid);
    events::send(&event, Wake::Now);
}

/// A thread made a thread or a process.
#[inline(always)]
pub fn fork(ctx: &impl EbpfContext, parent: Task, child: Task) {
    let (tid, tgid) = (child.tid(), child.tgid());
    let (parent_tid, parent_tgid) = (parent.tid(), parent.tgid());
    // The id's last owner may have been put in after it had ended.
    if gate::thread(tid).is_some() {
        gate::forget(tid);
    }
    let mut inherited = 0;
    if let Some(thread) = gate::thread(parent_tid) {
        let is_thread = tgid == parent_tgid;
        // A thread has its creator's class from its first wait on: here and not from user space,
        // so that none is lost. A process has none before it was looked at, and is followed until
        // then, so that its own children are told of as well: a daemon forks twice.
        // SAFETY: the map's own pointer.
        let slot = if is_thread { unsafe { thread.as_ref().slot }.into() } else { NO_CLASS };
        if is_thread {
            // Who was alone is not any more; the other threads know it already.
            // SAFETY: the map's own pointer.
            unsafe { (*thread.as_ptr()).siblings = Siblings::Some as u8 };
        }
        if gate::admit(tid, slot) {
            gate::mark(child);
            inherited = is_thread.into();
        } else {
            count(Counter::DroppedThreads);
        }
    } else if gate::thread(parent_tgid).is_none() {
        return;
    }
    let event = Event {
        tid,
        tgid,
        other_tid: parent_tid,
        other_tgid: parent_tgid,
        inherited,
        ..events::new(EventKind::Fork)
    };
    debug!(ctx, "fork: thread {} of {} made by {}", event.tid, event.tgid, event.other_tid);
    events::send(&event, Wake::Now);
}

/// A thread ends.
#[inline(always)]
pub fn exit(ctx: &impl EbpfContext, task: Task) {
    let tid = task.tid();
    if gate::thread(tid).is_none() {
        return;
    }
    gate::forget(tid);
    let event = Event { tid, tgid: task.tgid(), ..events::new(EventKind::Exit) };
    debug!(ctx, "exit: thread {} of {}", event.tid, event.tgid);
    // Nothing is to be done for a dead thread at once, and a thread pool dies in a storm.
    events::send(&event, Wake::Later);
}

/// A thread takes another name.
#[inline(always)]
pub fn rename(ctx: &impl EbpfContext, task: Task, name: *const u8) {
    let tid = task.tid();
    if gate::thread(tid).is_none() {
        return;
    }
    let event = Event { tid, tgid: task.tgid(), ..events::new(EventKind::Rename) };
    debug!(ctx, "rename: thread {} of {}", event.tid, event.tgid);
    events::send_named(&event, name);
}
