//! Who has a CPU while managed threads wait there. When an occupant leaves, what it had is blamed on
//! it once for each thread that waits, by class: as dear for many as for few, and exact, since each
//! thread's credit says what the occupant had before it waited. While nobody waits, a switch costs
//! a look at two words. Only the CPU itself writes its sums.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use core::ptr::NonNull;
use downbeat_abi::{
    CLASS_SLOTS, Counter, Cpu, CulpritKind, HASHED, KEEP_NS, Label, NO_CLASS, OWN_PLACES,
    PLACE_MASK, PLACES, SLICES, Thread, VICTIMS, credit_in, own_place, place, row_bit, waiting_in,
};

use crate::atomic;
use crate::maps::{BLAME_ON, CPUS, count};
use crate::opaque::opaque;
use crate::span::span;
use crate::task::Task;

/// What a thread was not charged for is the hypervisor's from here on, nanoseconds; less is noise
/// of the two clocks.
const STOLEN_FROM_NS: u64 = 50_000;

/// So many switches are looked at after the last one at which somebody waited: most who wait again
/// by then find the occupant named, and known since when it has the CPU.
const STAYS_AWAKE: u32 = 32;

/// Shorter slices are in the sums alone, nanoseconds.
const WORTH_KEEPING_NS: u64 = 1_000;

/// Longer than a thread that may run waits without being looked for by an idle CPU, nanoseconds:
/// the longest period of a quota is a second.
const FORGOTTEN_NS: u64 = 2_000_000_000;

/// The row of the last class, and after it that of threads without a class, have one bit.
const SHARED_ROW: usize = CLASS_SLOTS as usize - 1;
const SHARED_BIT: u64 = row_bit(SHARED_ROW);

/// The first eight bytes of their names.
const KWORKER: u64 = u64::from_ne_bytes(*b"kworker/");

/// Who a culprit is.
#[derive(Clone, Copy)]
struct Identity {
    kind: CulpritKind,
    id: u32,
    comm: [u64; 2],
}

/// This CPU's number.
#[inline(always)]
pub fn number() -> u32 {
    // SAFETY: a helper without conditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// The record of the CPU with this number.
#[inline(always)]
pub fn of(number: u32) -> Option<*mut Cpu> {
    CPUS.get_ptr_mut(number)
}

/// This CPU's record.
#[inline(always)]
pub fn here() -> Option<*mut Cpu> {
    of(number())
}

/// Asks for the line of a CPU's record that [`crate::blame::begin`] will change, so that it is here by
/// then: a line of another CPU takes as long to come as everything else together.
///
/// # Safety
/// `cpu` is a live value of its map.
#[inline(always)]
pub unsafe fn ask_for(cpu: *mut Cpu, slot: u16) {
    if BLAME_ON.load() != 0 {
        // SAFETY: as the caller promises; a wrong row costs time alone.
        unsafe { (&raw mut (*cpu).late_row).write_volatile(slot.into()) };
    }
}

/// Not 0 where it matters who has the CPU.
///
/// # Safety
/// `cpu` is a live value of its map.
#[inline(always)]
pub unsafe fn is_looked_at(cpu: *const Cpu) -> u64 {
    // SAFETY: as the caller promises; volatile, since other CPUs write it.
    unsafe { waiting(cpu) | u64::from((&raw const (*cpu).awake).read_volatile()) }
}

/// The rows of threads that wait on the CPU, as bits.
///
/// # Safety
/// As [`is_looked_at`].
#[inline(always)]
pub unsafe fn waiting(cpu: *const Cpu) -> u64 {
    // SAFETY: as the caller promises; volatile, since other CPUs write it.
    unsafe { (&raw const (*cpu).rows_waiting).read_volatile() }
}

/// The CPU went from `prev` to `next`.
#[inline(always)]
pub fn switched(
    cpu: *mut Cpu,
    now: u64,
    prev: Task,
    prev_thread: Option<NonNull<Thread>>,
    next: Task,
) {
    // SAFETY: the map's own pointer.
    unsafe {
        if waiting(cpu) != 0 || (*cpu).owes != 0 {
            charge_slice(cpu, now, prev, prev_thread);
            (*cpu).owes = 0;
            (*cpu).awake = STAYS_AWAKE;
            if next.tid() == 0 && span((*cpu).begun_ns, now) > FORGOTTEN_NS {
                set_right(cpu, now);
            }
        } else if (*cpu).awake != 0 {
            (*cpu).awake -= 1;
        }
        if (*cpu).awake == 0 {
            (*cpu).since_ns = 0;
            return;
        }
        (*cpu).since_ns = now;
        (*cpu).exec_ns = next.exec_ns();
        (*cpu).interrupted_ns = 0;
        (*cpu).interrupted_wait_ns = 0;
    }
}

/// Blames what the thread that leaves had of the CPU since somebody waits for it.
#[inline(always)]
unsafe fn charge_slice(cpu: *mut Cpu, now: u64, prev: Task, prev_thread: Option<NonNull<Thread>>) {
    // SAFETY: the map's own pointer.
    unsafe {
        let rest = present_ns(cpu, now);
        let place = place_of(cpu, now, prev, prev_thread);
        let since = (*cpu).since_ns;
        let mut stolen = 0;
        if since != 0 && place != place::IDLE as u32 {
            let charged = span((*cpu).exec_ns, prev.exec_ns());
            let ran = span((*cpu).interrupted_ns, span(since, now));
            let lost = span(charged, ran).min(rest);
            stolen = if lost < STOLEN_FROM_NS { 0 } else { lost };
        }
        // No more calls in the text than these two: a verifier may follow each on its own, and that of
        // kernel 7.2 does.
        charge(cpu, place as usize, rest - stolen, true);
        if stolen != 0 {
            charge(cpu, place::STOLEN, stolen, false);
        }
    }
}

/// What a turn of [`charge_row`] needs.
#[repr(C)]
struct Charge {
    cpu: *mut Cpu,
    place: u64,
    ns: u64,
    /// Whether credits are settled: they are the occupant's.
    settles: u64,
    /// Threads of the culprit's own process that wait, and their row.
    own: u64,
    own_row: u64,
}

/// `place` had the CPU for `ns` nanoseconds since somebody waits.
#[inline(never)]
unsafe fn charge(cpu: *mut Cpu, place: usize, ns: u64, settles: bool) {
    // SAFETY: the map's own pointer, and every index is masked.
    unsafe {
        let place = within(place);
        if ns >= WORTH_KEEPING_NS {
            let count = (*cpu).slice_count;
            let slices = (&raw mut (*cpu).slices).cast::<u64>();
            *slices.add(index(count.into(), SLICES)) = (place as u64) << 56 | ns;
            (*cpu).slice_count = count.wrapping_add(1);
        }
        let (own, own_row) = own_waiting(cpu, place);
        let mut charge =
            Charge { cpu, place: place as u64, ns, settles: settles.into(), own, own_row };
        let rows = waiting(cpu);
        let late = (&raw const (*cpu).late_row).read_volatile();
        let only = index(late.into(), CLASS_SLOTS as usize);
        if rows == 1 << only && rows != SHARED_BIT {
            blame_row(&raw const charge, only);
            return;
        }
        (*cpu).rows_left = rows;
        bpf_loop(CLASS_SLOTS, charge_row as *mut c_void, (&raw mut charge).cast(), 0);
    }
}

/// Blames the culprit for one row's waiting threads, and counts down the rows. Returns 1 when none
/// is left.
#[inline(never)]
extern "C" fn charge_row(_: u32, charge: *const Charge) -> u64 {
    // SAFETY: `bpf_loop` hands over what `charge` gave it; every index is masked.
    unsafe {
        let cpu = (*charge).cpu;
        let left = (*cpu).rows_left;
        if left == 0 {
            return 1;
        }
        (*cpu).rows_left = left & (left - 1);
        let number = lowest_bit(left) as usize;
        blame_row(charge, number);
        if number == SHARED_ROW {
            blame_row(charge, SHARED_ROW + 1);
        }
        0
    }
}

#[inline(always)]
unsafe fn blame_row(charge: *const Charge, number: usize) {
    let number = opaque(number as u64) as usize;
    if number >= VICTIMS {
        return;
    }
    // SAFETY: as the callers promise; the indexes are in range.
    unsafe {
        let Charge { cpu, place, ns, settles, own, own_row } = charge.read();
        let word = row_now(cpu, number);
        let waiting = waiting_in(word);
        let mut total = ns.wrapping_mul(waiting);
        if settles != 0 {
            let credit = credit_in(word);
            if credit != 0 {
                *(&raw mut (*cpu).settled).cast::<u64>().add(number) += credit;
                total = total.wrapping_sub(credit);
            }
            if waiting == 0 {
                sleeps(cpu, number);
            }
        }
        if total == 0 || total > i64::MAX as u64 {
            return;
        }
        let sums = (&raw mut (*cpu).blame).cast::<u64>().add(number * PLACES);
        if own != 0 && own_row == number as u64 {
            let own_ns = ns.wrapping_mul(own).min(total);
            *sums.add(place::WORKLOAD) += own_ns;
            total -= own_ns;
        }
        *sums.add(within(place as usize)) += total;
    }
}

/// Who waits in a row, as [`downbeat_abi::ONE_WAITING`] says.
///
/// # Safety
/// As [`is_looked_at`]; `number` is less than [`VICTIMS`].
#[inline(always)]
pub unsafe fn row_now(cpu: *const Cpu, number: usize) -> u64 {
    // SAFETY: as the caller promises; volatile, since other CPUs write it.
    unsafe {
        let row = (&raw const (*cpu).rows).cast::<u64>().add(number).read_volatile();
        let settled = (&raw const (*cpu).settled).cast::<u64>().add(number).read_volatile();
        row.wrapping_sub(settled)
    }
}

/// Nobody of a row waits any more.
#[inline(always)]
unsafe fn sleeps(cpu: *mut Cpu, number: usize) {
    let bit = row_bit(number);
    // SAFETY: as the callers promise; the index is in range.
    unsafe {
        // Two rows have the last bit.
        if number >= SHARED_ROW
            && waiting_in(row_now(cpu, SHARED_ROW)) + waiting_in(row_now(cpu, SHARED_ROW + 1)) != 0
        {
            return;
        }
        atomic::and(&raw mut (*cpu).rows_waiting, !bit);
        // Another CPU may have seen the bit still set.
        if waiting_in(row_now(cpu, number)) != 0 {
            atomic::or(&raw mut (*cpu).rows_waiting, bit);
        }
    }
}

/// How many threads of the place's own process wait, and the row of its class.
#[inline(always)]
unsafe fn own_waiting(cpu: *const Cpu, place: usize) -> (u64, u64) {
    if place >= HASHED {
        return (0, 0);
    }
    // SAFETY: as the callers promise; every index is masked.
    unsafe {
        let label = (&raw const (*cpu).labels).cast::<Label>().add(index(place as u64, HASHED));
        let process = (&raw const (*label).comm).cast::<u64>().read();
        if (*label).kind != CulpritKind::Class as u32 || process == 0 {
            return (0, 0);
        }
        let word = own_word(cpu.cast_mut(), process as u32).read_volatile();
        let own = if word >> 32 == process { word & 0xffff_ffff } else { 0 };
        (own, (*label).id.into())
    }
}

/// Where threads of a process are counted that wait on the CPU.
///
/// # Safety
/// As [`is_looked_at`].
#[inline(always)]
pub unsafe fn own_word(cpu: *mut Cpu, process: u32) -> *mut u64 {
    let place = index(own_place(process) as u64, OWN_PLACES);
    // SAFETY: as the caller promises; the index is masked.
    unsafe { (&raw mut (*cpu).own_waiting).cast::<u64>().add(place) }
}

/// A CPU that has nothing to run for long: whoever still counts as waiting there was replaced in
/// the map of threads meanwhile.
#[inline(never)]
unsafe fn set_right(cpu: *mut Cpu, now: u64) {
    // SAFETY: the map's own pointer, and the indexes are in range.
    unsafe {
        (*cpu).generation += 1;
        (*cpu).begun_ns = now;
        (&raw mut (*cpu).rows_waiting).write_volatile(0);
        let rows = (&raw const (*cpu).rows).cast::<u64>();
        let settled = (&raw mut (*cpu).settled).cast::<u64>();
        for n in 0..VICTIMS {
            settled.add(n).write_volatile(rows.add(n).read_volatile());
        }
        let own = (&raw mut (*cpu).own_waiting).cast::<u64>();
        for n in 0..OWN_PLACES {
            own.add(n).write_volatile(0);
        }
    }
}

/// What the present occupant had of the CPU while somebody waited, up to now, nanoseconds.
#[inline(always)]
pub fn present_ns(cpu: *const Cpu, now: u64) -> u64 {
    // SAFETY: the map's own pointer.
    unsafe {
        let begun_ns = (&raw const (*cpu).begun_ns).read_volatile();
        let from = begun_ns.max((*cpu).since_ns);
        span((*cpu).interrupted_wait_ns.into(), span(from, now))
    }
}

/// An interrupt that took `ns` nanoseconds, without others within it, ended.
#[inline(always)]
pub fn interrupted(cpu: *mut Cpu, ns: u64, place: usize) {
    // SAFETY: as above.
    unsafe {
        (*cpu).interrupted_ns += ns;
        // As for `switched`: what a kernel may refuse must not be there where blame is off.
        if BLAME_ON.load() != 0 && waiting(cpu) != 0 {
            let before = (*cpu).interrupted_wait_ns;
            (*cpu).interrupted_wait_ns = (u64::from(before) + ns).min(u32::MAX.into()) as u32;
            charge(cpu, place, ns, false);
        }
    }
}

/// The place of an interrupt of this kind and number.
#[inline(always)]
pub fn place_of_interrupt(cpu: *mut Cpu, now: u64, kind: CulpritKind, id: u32) -> usize {
    hashed(cpu, now, Identity { kind, id, comm: [0; 2] }) as usize
}

#[inline(always)]
fn place_of(cpu: *mut Cpu, now: u64, task: Task, thread: Option<NonNull<Thread>>) -> u32 {
    if task.tid() == 0 {
        return place::IDLE as u32;
    }
    // SAFETY: the map's own pointer.
    let managed = thread.map(|thread| unsafe {
        let thread = thread.as_ptr();
        (u32::from((*thread).slot), (*thread).process)
    });
    let who = if let Some((slot, process)) = managed
        && slot != NO_CLASS
    {
        // A process of several threads has a place of its own, so that those of them that wait
        // know their own.
        Identity { kind: CulpritKind::Class, id: slot, comm: [process.into(), 0] }
    } else {
        let kernel = task.is_kernel_thread();
        let kind = if kernel { CulpritKind::Kernel } else { CulpritKind::Program };
        let mut comm = task.program();
        // Workers of the kernel are many, and what tells them apart says nothing.
        if comm[0] == KWORKER {
            comm[1] = 0;
        }
        Identity { kind, id: 0, comm }
    };
    hashed(cpu, now, who)
}

/// The place of a culprit: one of four that its identity leads to, its own, or one that is free or
/// that nobody used for long.
#[inline(always)]
fn hashed(cpu: *mut Cpu, now: u64, who: Identity) -> u32 {
    let Identity { kind, id, comm } = who;
    let kind = kind as u32;
    let what = (u64::from(kind) << 32) | u64::from(id);
    let mixed = (what ^ comm[0] ^ comm[1].rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let home = (mixed >> 59) as usize;
    let mut free = PLACES;
    // SAFETY: the map's own pointer, and every index is masked.
    unsafe {
        for other in [0, 1, 11, 22] {
            let n = index((home ^ other) as u64, HASHED);
            let label = (&raw mut (*cpu).labels).cast::<Label>().add(n);
            let its = (&raw const (*label).comm).cast::<[u64; 2]>().read();
            let differs = u64::from((*label).kind ^ kind)
                | u64::from((*label).id ^ id)
                | (its[0] ^ comm[0])
                | (its[1] ^ comm[1]);
            if opaque(differs) == 0 {
                (*label).used_ns = now;
                return n as u32;
            }
            if free >= HASHED && span((*label).used_ns, now) > KEEP_NS {
                free = n;
            }
        }
        if free >= HASHED {
            count(Counter::DroppedBlame);
            return place::UNKNOWN as u32;
        }
        let n = index(free as u64, HASHED);
        let label = (&raw mut (*cpu).labels).cast::<Label>().add(n);
        (*label).kind = kind;
        (*label).id = id;
        (&raw mut (*label).comm).cast::<[u64; 2]>().write(comm);
        (*label).since_ns = now;
        (*label).used_ns = now;
        n as u32
    }
}

/// `n` within a table of `len` entries, so that the verifier sees it: LLVM would drop a mask that
/// it thinks of no use.
#[inline(always)]
pub fn index(n: u64, len: usize) -> usize {
    opaque(n) as usize & (len - 1)
}

/// The same for a place.
#[inline(always)]
pub fn within(place: usize) -> usize {
    opaque(place as u64) as usize & PLACE_MASK
}

/// Number of the lowest bit that is set: there is no instruction for it. Without a branch, of which
/// the verifier would follow all sixty-four combinations.
#[inline(always)]
pub fn lowest_bit(word: u64) -> u64 {
    let bit = word & word.wrapping_neg();
    let half = |mask: u64, shift: u64| {
        let part = opaque(bit & mask);
        (opaque(part | part.wrapping_neg()) >> 63) << shift
    };
    half(0xffff_ffff_0000_0000, 5)
        + half(0xffff_0000_ffff_0000, 4)
        + half(0xff00_ff00_ff00_ff00, 3)
        + half(0xf0f0_f0f0_f0f0_f0f0, 2)
        + half(0xcccc_cccc_cccc_cccc, 1)
        + half(0xaaaa_aaaa_aaaa_aaaa, 0)
}
