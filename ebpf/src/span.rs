//! Differences of times.

use crate::opaque::opaque;

/// From `from` to `to`, nanoseconds, for times less than 2^63 apart; 0 where that is backwards. Without
/// a branch, each of which doubles what the verifier follows: `saturating_sub` becomes two.
#[inline(always)]
pub fn span(from: u64, to: u64) -> u64 {
    let ns = to.wrapping_sub(from);
    // All bits where `ns` is below 0. LLVM would make a branch of it.
    let backwards = opaque((ns.cast_signed() >> (u64::BITS - 1)).cast_unsigned());
    ns & !backwards
}
