//! Atomic changes of words that other CPUs and the agent change at the same time.
//!
//! The BPF target has no compare-and-swap before kernel 5.12's instructions were known to it, so
//! `core`'s atomics can only load and store there; the instructions themselves are plain.

use core::arch::asm;

/// `*word += amount`
///
/// # Safety
/// `word` points into a live map value and is 8-byte aligned.
#[inline(always)]
pub unsafe fn add(word: *mut u64, amount: u64) {
    // SAFETY: as the caller promises; the verifier checks the pointer as it does for a store.
    unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) word, in(reg) amount) };
}

/// `*word |= bits`
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn or(word: *mut u64, bits: u64) {
    // SAFETY: as in `add`.
    unsafe { asm!("lock *(u64 *)({} + 0) |= {}", in(reg) word, in(reg) bits) };
}

/// `*word &= bits`
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn and(word: *mut u64, bits: u64) {
    // SAFETY: as in `add`.
    unsafe { asm!("lock *(u64 *)({} + 0) &= {}", in(reg) word, in(reg) bits) };
}

/// Makes `*word` `new` where it is `old`; returns what it was. Kernel 5.12 and later.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn swap_if(word: *mut u64, old: u64, new: u64) -> u64 {
    let was;
    // SAFETY: as in `add`.
    unsafe {
        asm!("r0 = cmpxchg_64({} + 0, r0, {})", in(reg) word, in(reg) new, inout("r0") old => was);
    }
    was
}
