//! W3C trace context, level 1: `traceparent` is `00-TRACE-PARENT-FLAGS`, all lower-case hex.

/// The trace's id and the id of the span that sent the request; nothing where the text is none, or
/// an id is all zeroes, which means none.
pub fn ids(traceparent: &str) -> Option<(&str, &str)> {
    let mut parts = traceparent.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let flags = parts.next()?;
    // Later versions may append parts; this one has four.
    let whole = version != "ff" && (version != "00" || parts.next().is_none());
    let fits = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    let named = |id: &str| id.bytes().any(|byte| byte != b'0');
    (whole && fits && named(trace) && named(parent)).then_some((trace, parent))
}

fn hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_context_is_one() {
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(ids(&format!("00-{trace}-{parent}-01")), Some((trace, parent)));
        assert_eq!(ids(&format!("cc-{trace}-{parent}-01-later")), Some((trace, parent)));
        let zeroes = "0".repeat(32);
        for wrong in [
            String::new(),
            "00".into(),
            format!("00-{trace}-{parent}"),
            format!("00-{trace}-{parent}-01-more"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{zeroes}-{parent}-01"),
            format!("00-{trace}-{}-01", &zeroes[..16]),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}\u{e4}-{parent}-01"),
        ] {
            assert_eq!(ids(&wrong), None, "{wrong}");
        }
    }
}
