//! The text of one datagram.

use super::MarkKind;

/// The longest name of a frame, bytes.
pub const MAX_ID: usize = 64;

/// Hands each mark to `take` with the time that the sender says it was set at; `take` says
/// whether it can use it. Returns how many lines were of no use.
///
/// A time or a deadline holds for the marks after it in the same datagram, until the next.
pub(super) fn parse(
    bytes: &[u8],
    mut take: impl FnMut(Option<u64>, &str, MarkKind) -> bool,
) -> u64 {
    let (mut time_ns, mut deadline_ns, mut garbage) = (None, None, 0);
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let understood = match split(line) {
            Some(("MONOTONIC_NS", value)) => number(value).map(|ns| time_ns = Some(ns)).is_some(),
            Some(("DEADLINE_NS", value)) => {
                let ns = number(value).filter(|ns| *ns > 0);
                ns.map(|ns| deadline_ns = Some(ns)).is_some()
            }
            Some(("FRAME_BEGIN", id)) if is_id(id) => {
                take(time_ns, id, MarkKind::Begin { deadline_ns })
            }
            Some(("FRAME_END", id)) if is_id(id) => take(time_ns, id, MarkKind::End),
            _ => false,
        };
        garbage += u64::from(!understood);
    }
    garbage
}

fn split(line: &[u8]) -> Option<(&str, &str)> {
    str::from_utf8(line).ok()?.split_once('=')
}

/// Digits alone: the standard parser would take a sign as well.
fn number(value: &str) -> Option<u64> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
}

fn is_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}
