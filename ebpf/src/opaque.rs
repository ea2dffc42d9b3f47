//! A value that LLVM knows nothing about, so that a mask or a test that the verifier needs stays.

use core::arch::asm;

/// The same value. `core::hint::black_box` would put it into memory and read everything else that was
/// known from there again.
#[inline(always)]
pub fn opaque(mut value: u64) -> u64 {
    // An instruction, if one that does nothing: a line of source without any has the place of the
    // next one, and the kernel refuses two lines with the same place.
    // SAFETY: a register becomes what it is.
    unsafe { asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
    value
}
