//! Run-queue wait: from runnable (woken or preempted) to running; and who runs where meanwhile.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use downbeat_abi::{
    BUCKETS, CLASS_SLOTS, ClassTimes, Counter, Cpu, Job, Siblings, Thread, WakeKind,
    bucket_by_steps,
};

use crate::maps::{self, BLAME_ON, LAST_WAIT_PART, WAIT_PARTS_SHARED, WAITS, count};
use crate::occupancy::index;
use crate::opaque::opaque;
use crate::task::{Structure, Task};
use crate::{atomic, blame, gate, jobs, occupancy};

/// `TASK_RUNNING`: a thread left its CPU that would rather have stayed.
pub const RUNNABLE: u64 = 0;
/// `TASK_INTERRUPTIBLE`
const INTERRUPTIBLE: u64 = 1;
/// `TASK_UNINTERRUPTIBLE`
const UNINTERRUPTIBLE: u64 = 2;

/// A thread is being woken, in whatever context wakes it. What that means for its jobs is told when
/// it runs or leaves: on its own CPU, and not on that of whoever wakes it.
#[inline(always)]
pub fn waking(task: Task) {
    if gate::is_marked(task) {
        wakes(task);
    }
}

/// A function of its own, so that nothing is saved on the stack for threads that are not marked.
#[inline(never)]
fn wakes(task: Task) {
    let Some(thread) = gate::thread(task.tid()) else { return };
    let thread = thread.as_ptr();
    let number = task.cpu();
    let Some(cpu) = occupancy::of(number) else { return };
    // SAFETY: the maps' own pointers.
    unsafe { occupancy::ask_for(cpu, (*thread).slot) };
    let now = now();
    // SAFETY: the map's own pointer.
    unsafe {
        if (*thread).run_ns != 0 {
            // Two wakes during one turn: the first one's job is told here.
            tell_wake(thread, maps::job((*thread).job), task);
        } else if (*thread).ready_ns == 0 || (*thread).unsure != 0 {
            // One that only seemed to have been woken on its way to sleep: it slept.
            (*thread).unsure = 0;
            is_ready(thread, cpu, number, now);
        }
        let wake = jobs::how_woken(task);
        (*thread).woken_ns = now;
        (*thread).late_ns = wake.late_ns.min(u32::MAX.into()) as u32;
        (*thread).wake = wake.kind as u8;
    }
}

/// A new thread may run.
#[inline(always)]
pub fn born(task: Task) {
    let Some(thread) = gate::thread(task.tid()) else { return };
    let thread = thread.as_ptr();
    gate::mark(task);
    let number = task.cpu();
    if let Some(cpu) = occupancy::of(number) {
        // SAFETY: the maps' own pointers.
        unsafe { is_ready(thread, cpu, number, now()) };
    }
}

/// A thread moves to another CPU's run queue.
#[inline(always)]
pub fn migrated(task: Task, number: u32) {
    if gate::is_marked(task) {
        moves(task, number);
    }
}

/// As [`wakes`].
#[inline(never)]
fn moves(task: Task, number: u32) {
    let Some(thread) = gate::thread(task.tid()) else { return };
    let thread = thread.as_ptr();
    // SAFETY: the map's own pointer.
    unsafe {
        if (*thread).ready_ns == 0 {
            (*thread).cpu = number as u16;
            return;
        }
        // The waits before and after are the same job's.
        tell_wake(thread, maps::job((*thread).job), task);
        blame::moved(thread, now(), number);
    }
}

/// A CPU went from one thread to another. `state` gives the state bits with which `prev` leaves it;
/// [`RUNNABLE`] where it was preempted.
#[inline(always)]
pub fn switched<const TYPED: bool>(prev: *const u8, next: *const u8, state: impl FnOnce() -> u64) {
    let tid = |at| Task(Structure::new(at, TYPED)).tid();
    // The idle task's pid 0 is never in the gate.
    let passes = gate::passes(tid(prev)) * PREV_PASSES | gate::passes(tid(next)) * NEXT_PASSES;
    let number = occupancy::number();
    let Some(cpu) = occupancy::of(number) else { return };
    // SAFETY: the map's own pointer.
    if unsafe { occupancy::is_looked_at(cpu) } | passes != 0 {
        changes::<TYPED>(prev, next, cpu, number, passes | state());
    }
}

/// What [`changes`] is told in one word, since a function takes five at most: the state's bits, and above
/// them which of both threads may be managed.
const STATE: u64 = 0xffff_ffff;
const PREV_PASSES: u64 = 1 << 32;
const NEXT_PASSES: u64 = 1 << 33;

/// A function of its own, so that a switch between others runs through few lines of instructions: these
/// seldom stay in the cache from one switch to the next.
#[inline(never)]
fn changes<const TYPED: bool>(
    prev: *const u8,
    next: *const u8,
    cpu: *mut Cpu,
    number: u32,
    passes_and_state: u64,
) {
    let task = |at| Task(Structure::new(at, TYPED));
    let (prev, next) = (task(prev), task(next));
    let kept = |passes, task: Task| {
        gate::kept(if opaque(passes_and_state) & passes != 0 { task.tid() } else { 0 })
    };
    let (prev_thread, next_thread) = (kept(PREV_PASSES, prev), kept(NEXT_PASSES, next));
    // SAFETY: the maps' own pointers.
    unsafe {
        let now = now();
        // Where blame is off nobody waits and this is not reached; the verifier learns it here and
        // drops what a kernel may refuse.
        if BLAME_ON.load() != 0 && occupancy::is_looked_at(cpu) != 0 {
            occupancy::switched(cpu, now, prev, prev_thread, next);
        }
        if let Some(thread) = prev_thread {
            leaves(thread.as_ptr(), (cpu, number), prev, passes_and_state & STATE, now);
        }
        if let Some(thread) = next_thread {
            runs(thread.as_ptr(), (cpu, number), next, now);
        }
    }
}

/// # Safety
/// `thread` is a live value of `THREADS`, and `cpu` of `CPUS`.
#[inline(always)]
unsafe fn is_ready(thread: *mut Thread, cpu: *mut Cpu, number: u32, now: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        blame::forget(thread);
        (*thread).ready_ns = now;
        (*thread).cpu = number as u16;
        blame::begin(thread, cpu, now);
    }
}

/// Tells a thread's jobs of the wake that they were not told of yet, if there is one.
///
/// # Safety
/// As [`is_ready`]; `job` is where that thread's jobs are, a live value of `JOBS`.
#[inline(always)]
unsafe fn tell_wake(thread: *mut Thread, job: Option<*mut Job>, task: Task) {
    // SAFETY: as the caller promises.
    unsafe {
        let wake = (*thread).wake;
        if wake == WakeKind::None as u8 {
            return;
        }
        (*thread).wake = WakeKind::None as u8;
        if let Some(job) = job {
            jobs::woken(job, thread, task, wake);
        }
    }
}

/// # Safety
/// As [`is_ready`].
#[inline(always)]
unsafe fn leaves(
    thread: *mut Thread,
    (here, number): (*mut Cpu, u32),
    task: Task,
    state: u64,
    now: u64,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let job = maps::job((*thread).job);
        tell_wake(thread, job, task);
        let Thread { run_ns, woken_ns, slot, .. } = *thread;
        if run_ns == 0 {
            // It was put in since it has the CPU.
            gate::mark(task);
        }
        if run_ns != 0 && run_ns < now {
            ran_in_class(here, slot.into(), now - run_ns);
        }
        (*thread).run_ns = 0;
        // Woken since it runs: perhaps between its last look at what it waits for and this switch,
        // and then it is ready. Another wake would show that it was not.
        let unsure = state != RUNNABLE && woken_ns != 0;
        if unsure {
            (*thread).unsure = 1;
        }
        if unsure || state == RUNNABLE {
            is_ready(thread, here, number, now);
        } else {
            (*thread).ready_ns = 0;
            blame::forget(thread);
        }
        if let Some(job) = job {
            jobs::left(job, task, state, now);
        }
    }
}

/// # Safety
/// As [`is_ready`].
#[inline(always)]
unsafe fn runs(thread: *mut Thread, (here, number): (*mut Cpu, u32), task: Task, now: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        let Thread { ready_ns, slot, wake, .. } = *thread;
        let job = maps::job((*thread).job);
        if ready_ns == 0 {
            // Nobody was seen to wake it: most likely it has no mark yet.
            gate::mark(task);
            if wake == WakeKind::None as u8
                && let Some(job) = job
            {
                (*thread).wake = jobs::unseen_wake(job);
                (*thread).woken_ns = now;
                (*thread).late_ns = 0;
            }
        }
        tell_wake(thread, job, task);
        if ready_ns != 0 {
            // A thread may wait on one CPU's clock and run on another's.
            if now < ready_ns {
                count(Counter::DiscardedSamples);
            } else {
                waited(here, number, slot.into(), now - ready_ns);
                if let Some(job) = job {
                    jobs::waited(job, now - ready_ns);
                    blame::keep(thread, job, now);
                }
            }
        }
        blame::forget_here(thread, here, number);
        (*thread).ready_ns = 0;
        (*thread).run_ns = now;
        (*thread).woken_ns = 0;
        (*thread).unsure = 0;
        let mut siblings = (*thread).siblings;
        if siblings == Siblings::Unknown as u8 {
            siblings = if task.has_siblings() { Siblings::Some } else { Siblings::None } as u8;
            (*thread).siblings = siblings;
        }
        let shared = siblings == Siblings::Some as u8;
        (*thread).process = if shared { task.tgid() } else { 0 };
        (*thread).cpu = number as u16;
        if let Some(job) = job {
            jobs::runs(job, task, now);
        }
    }
}

/// Counts a wait of a class.
///
/// # Safety
/// `here` is this CPU's record.
#[inline(always)]
unsafe fn waited(here: *mut Cpu, number: u32, slot: u32, wait_ns: u64) {
    if slot >= CLASS_SLOTS {
        return;
    }
    let last = LAST_WAIT_PART.load();
    let Some(waits) = WAITS.get_ptr_mut(slot * (last + 1) + (number & last)) else {
        return;
    };
    // LLVM knows that the index is in range and would drop the mask by which the verifier
    // learns it.
    let bucket = opaque(bucket_by_steps(wait_ns, opaque) as u64) as usize & (BUCKETS - 1);
    // SAFETY: the maps' own pointers, and the indexes are in range.
    unsafe {
        let count = (&raw mut (*waits).buckets).cast::<u64>().add(bucket);
        // The verifier knows the global's value and drops the branch that is not taken.
        if WAIT_PARTS_SHARED.load() != 0 {
            atomic::add(count, 1);
        } else {
            count.write_volatile(count.read_volatile() + 1);
        }
        let classes = (&raw mut (*here).classes).cast::<ClassTimes>();
        (*classes.add(index(slot.into(), CLASS_SLOTS as usize))).waited_ns += wait_ns;
    }
}

/// Counts CPU time of a class on this CPU.
///
/// # Safety
/// `here` is this CPU's record.
#[inline(always)]
unsafe fn ran_in_class(here: *mut Cpu, slot: u32, ns: u64) {
    if slot >= CLASS_SLOTS {
        return;
    }
    // SAFETY: as the caller promises, and the index is in range.
    unsafe {
        let classes = (&raw mut (*here).classes).cast::<ClassTimes>();
        (*classes.add(index(slot.into(), CLASS_SLOTS as usize))).ran_ns += ns;
    }
}

/// Whether the state bits are those of a sleep that its event or a signal ends.
#[inline(always)]
pub const fn is_interruptible(state: u64) -> bool {
    state & INTERRUPTIBLE != 0
}

/// Whether the state bits are those of a sleep that nothing but its event ends.
#[inline(always)]
pub const fn is_uninterruptible(state: u64) -> bool {
    state & UNINTERRUPTIBLE != 0
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without conditions.
    unsafe { bpf_ktime_get_ns() }
}
