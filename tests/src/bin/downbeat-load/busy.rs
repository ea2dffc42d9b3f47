//! Work of a known cost.

use std::hint::black_box;

use downbeat_tests::clock::thread_cpu_ns;

/// Sums between two looks at the clock: a few microseconds, by which the cost may be exceeded.
const BETWEEN_LOOKS: u32 = 2000;

/// Computes until the calling thread has used `cost_ns` of CPU time.
pub fn spend(cost_ns: u64) {
    let end = thread_cpu_ns() + cost_ns;
    while thread_cpu_ns() < end {
        let mut sum = 1_u32;
        for term in 0..BETWEEN_LOOKS {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(term));
        }
    }
}
