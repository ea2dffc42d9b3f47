//! Values as people write them: durations, percentages, sizes, rates.

use std::time::Duration;

use super::notes::Notes;
use super::table::{Field, shown};
use crate::language::{Bounds, PART, QUOTA_PERIOD};
use crate::{Amount, CpuMax, Share, Span, duration, quantity};

const DURATION: &str = "a duration such as \"10ms\"";
const DURATION_OR_AUTO: &str = "a duration such as \"10ms\", or \"auto\"";
const PERCENTAGE: &str = "a percentage such as \"0.1%\"";
const SIZE: &str =
    "a size such as \"256MiB\", a percentage of the memory such as \"25%\", or \"max\"";
const RATE: &str = "bytes per second such as \"50MB/s\"";
const REQUESTS: &str = "a whole number of requests per second, or \"500/s\"";
const CPU_TIME: &str = "a percentage of one CPU such as \"150%\", \"20ms per 100ms\", or \"max\"";

/// The period that systemd and the kernel take where only a percentage is given.
const QUOTA_OF: Duration = Duration::from_millis(100);

/// More than eight thousand CPUs could serve in the shortest period.
const MOST_QUOTA: Duration = Duration::from_secs(10_000);

/// A duration within bounds.
pub(super) fn duration(
    field: &Field<'_>,
    bounds: Bounds<Duration>,
    notes: &mut Notes<'_>,
) -> Option<Duration> {
    let text = field.string(DURATION, notes)?;
    within(field, text, DURATION, bounds, notes)
}

/// A duration within bounds, or `"auto"`.
pub(super) fn span(
    field: &Field<'_>,
    bounds: Bounds<Duration>,
    notes: &mut Notes<'_>,
) -> Option<Span> {
    match field.string(DURATION_OR_AUTO, notes)? {
        "auto" => Some(Span::Auto),
        text => within(field, text, DURATION_OR_AUTO, bounds, notes).map(Span::Given),
    }
}

fn within(
    field: &Field<'_>,
    text: &str,
    wanted: &str,
    Bounds { low, high }: Bounds<Duration>,
    notes: &mut Notes<'_>,
) -> Option<Duration> {
    let Some(duration) = duration::parse(text) else {
        let units = duration::UNIT_NAMES;
        field.refuse(format!("`{}` is not {wanted}; the units are {units}", shown(text)), notes);
        return None;
    };
    let good = (low..=high).contains(&duration);
    if !good {
        let (low, high) = (duration::words(low), duration::words(high));
        field.refuse(format!("`{}` is not from {low} to {high}", shown(text)), notes);
    }
    good.then_some(duration)
}

/// A percentage from 0 to 100.
pub(super) fn part(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<Share> {
    part_of(field, PERCENTAGE, notes)
}

/// The same, where other words may stand too.
pub(super) fn part_of(field: &Field<'_>, wanted: &str, notes: &mut Notes<'_>) -> Option<Share> {
    let text = field.string(wanted, notes)?;
    let Some(share) = quantity::share(text) else {
        field.refuse(format!("`{}` is not {wanted}", shown(text)), notes);
        return None;
    };
    let good = share <= PART.high;
    if !good {
        field.refuse(format!("`{}` is not from {} to {}", shown(text), PART.low, PART.high), notes);
    }
    good.then_some(share)
}

/// A size, a percentage of the memory or `"max"`.
pub(super) fn amount(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<Amount> {
    let text = field.string(SIZE, notes)?;
    if text == "max" {
        return Some(Amount::Max);
    }
    if text.ends_with('%') {
        return part_of(field, SIZE, notes).map(Amount::Share);
    }
    let bytes = quantity::size(text);
    if bytes.is_none() {
        field.refuse(
            format!("`{}` is not {SIZE}; the units are B, kB, MB, GB, KiB, MiB, GiB", shown(text)),
            notes,
        );
    }
    bytes.map(Amount::Bytes)
}

/// Bytes per second, more than none.
pub(super) fn rate(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<u64> {
    let text = field.string(RATE, notes)?;
    let rate = quantity::rate(text).filter(|rate| *rate > 0);
    if rate.is_none() {
        field.refuse(format!("`{}` is not {RATE}", shown(text)), notes);
    }
    rate
}

/// Requests per second, more than none.
pub(super) fn requests(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<u64> {
    let Some(text) = field.as_str() else {
        if field.is_integer() {
            return field.integer_in(1..=u32::MAX, notes).map(u64::from);
        }
        field.wrong_type(REQUESTS, notes);
        return None;
    };
    let number = text.strip_suffix("/s").map(|number| number.trim_end_matches(' '));
    let plain = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let rate = plain.and_then(|number| number.parse::<u32>().ok()).filter(|rate| *rate > 0);
    if rate.is_none() {
        field.refuse(format!("`{}` is not {REQUESTS}", shown(text)), notes);
    }
    rate.map(u64::from)
}

/// CPU time per period.
pub(super) fn cpu_max(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<CpuMax> {
    let text = field.string(CPU_TIME, notes)?;
    if text == "max" {
        return Some(CpuMax::Unlimited);
    }
    if let Some(share) = quantity::share(text) {
        let nanoseconds = share.of(u64::try_from(QUOTA_OF.as_nanos()).unwrap_or(u64::MAX));
        let quota = Duration::from_nanos(nanoseconds);
        if quota < QUOTA_PERIOD.low {
            field.refuse(format!("`{}` is less than the 1% that Linux takes", shown(text)), notes);
            return None;
        }
        return Some(CpuMax::Quota { quota, period: QUOTA_OF });
    }
    let Some((quota, period)) = text.split_once(" per ") else {
        field.refuse(format!("`{}` is not {CPU_TIME}", shown(text)), notes);
        return None;
    };
    let most = Bounds { low: QUOTA_PERIOD.low, high: MOST_QUOTA };
    let quota = within(field, quota.trim(), DURATION, most, notes);
    let period = within(field, period.trim(), DURATION, QUOTA_PERIOD, notes);
    Some(CpuMax::Quota { quota: quota?, period: period? })
}
