//! The log-linear scale of waits: 8 buckets per power of two, exact below 8 ns, so that a
//! bucket's upper bound is at most 1/8 above any value in it. 256 buckets reach 17.2 s; the last
//! also takes everything longer.

/// Buckets of one histogram.
pub const BUCKETS: usize = 256;

/// log2 of the buckets per power of two.
const SUB_BITS: u32 = 3;

/// Buckets per power of two.
const SUB: u64 = 1 << SUB_BITS;

/// The bucket of a wait of `ns` nanoseconds, `0..BUCKETS`.
#[must_use]
#[inline(always)]
pub const fn bucket_of(ns: u64) -> usize {
    if ns < SUB {
        return ns as usize;
    }
    // At least 0, since ns has its third bit or a higher one set.
    let shift = 63 - ns.leading_zeros() - SUB_BITS;
    let bucket = ((shift as u64 + 1) << SUB_BITS) + ((ns >> shift) & (SUB - 1));
    if bucket < BUCKETS as u64 { bucket as usize } else { BUCKETS - 1 }
}

/// Buckets of the numbers that [`bucket_by_steps`] comes down to.
static SMALL: [u8; 128] = {
    let mut buckets = [0; 128];
    let mut n = 0;
    while n < buckets.len() {
        buckets[n] = bucket_of(n as u64) as u8;
        n += 1;
    }
    buckets
};

/// The same as [`bucket_of`] where there is no instruction for leading zeros: three steps without a
/// branch and a look into a table of two cache lines, about half of what counting bits takes.
/// `opaque` returns its argument and keeps the compiler from knowing anything about it, since it
/// would make branches of the steps, all combinations of which the verifier follows.
#[must_use]
#[inline(always)]
pub fn bucket_by_steps(ns: u64, opaque: impl Fn(u64) -> u64) -> usize {
    const LONGEST: u64 = 1 << 34;
    if ns >= LONGEST {
        return BUCKETS - 1;
    }
    let mut rest = opaque(ns);
    let mut shift = 0;
    // Each leaves 8 or more, so that none of the bits that tell the bucket is lost.
    for (from, step) in [(1 << 19, 4), (1 << 11, 3), (1 << 7, 2)] {
        let by = ((from - 1_u64).wrapping_sub(rest) >> 63) << step;
        rest = opaque(rest >> by);
        shift += by;
    }
    let small = opaque(rest) as usize & (SMALL.len() - 1);
    usize::from(SMALL[small]) + ((shift as usize) << SUB_BITS)
}

/// The largest wait in nanoseconds that falls into `bucket`; `u64::MAX` for the last one and
/// beyond.
#[must_use]
pub const fn upper_bound(bucket: usize) -> u64 {
    if bucket >= BUCKETS - 1 {
        return u64::MAX;
    }
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    let shift = (bucket >> SUB_BITS) - 1;
    ((SUB + (bucket & (SUB - 1)) + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_the_last_value_of_its_bucket() {
        for bucket in 0..BUCKETS - 1 {
            let bound = upper_bound(bucket);
            assert_eq!(bucket_of(bound), bucket);
            assert_eq!(bucket_of(bound + 1), bucket + 1);
        }
    }

    #[test]
    fn by_steps_it_is_the_same() {
        let by_steps = |ns| bucket_by_steps(ns, core::hint::black_box);
        for bucket in 0..BUCKETS - 1 {
            let bound = upper_bound(bucket);
            assert_eq!((by_steps(bound), by_steps(bound + 1)), (bucket, bucket + 1));
        }
        assert_eq!((by_steps(0), by_steps(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn the_scale_reaches_from_below_a_microsecond_to_above_sixteen_seconds() {
        assert_eq!(upper_bound(0), 0);
        assert_eq!(bucket_of(1_000), bucket_of(upper_bound(bucket_of(1_000))));
        assert!(upper_bound(bucket_of(1_000)) < 1_125);
        assert!(upper_bound(BUCKETS - 2) >= 16_000_000_000);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(upper_bound(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn a_bound_is_at_most_an_eighth_above_any_value() {
        let mut ns: u64 = 1;
        while ns < 16_000_000_000 {
            for value in [ns - 1, ns, ns + 1, ns + ns / 3] {
                let bound = upper_bound(bucket_of(value));
                assert!(bound >= value);
                assert!(bound - value <= value / 8, "{value} is told as {bound}");
            }
            ns *= 2;
        }
    }
}
