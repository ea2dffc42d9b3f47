//! The nearest known name for one that is not known.

use super::table::shown;

/// What to write instead of `name`: the nearest of `known`, or all of them where none is near and
/// they are few. `known_as` says what they are: `known`, `defined`.
pub(super) fn hint<'k>(
    name: &str,
    known: impl Iterator<Item = &'k str> + Clone,
    known_as: &str,
) -> String {
    match nearest(name, known.clone()) {
        Some(near) => format!("did you mean `{}`?", shown(near)),
        None => {
            let mut names: Vec<_> = known.map(shown).collect();
            if names.is_empty() {
                return format!("none is {known_as}");
            }
            let more = names.len().saturating_sub(MOST_LISTED);
            names.truncate(MOST_LISTED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{known_as}: {}{more}", names.join(", "))
        }
    }
}

/// Names in one message.
const MOST_LISTED: usize = 20;

/// Longer names are no slip of the finger, and comparing them would take time.
const LONGEST: usize = 64;

/// Letters of the shortest abbreviation that is taken for one.
const SHORTEST_ABBREVIATION: usize = 3;

/// The known name that is at most a third of its letters away, else one that is cut short or drawn
/// out: `prio`, `executable`.
fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let name = name.to_lowercase();
    let near = known.filter(|k| name.len() <= LONGEST && k.len() <= LONGEST).filter_map(|k| {
        let distance = strsim::osa_distance(&name, k);
        let letters = name.chars().count().max(k.chars().count());
        let abbreviated = name.len().min(k.len()) >= SHORTEST_ABBREVIATION
            && (name.starts_with(k) || k.starts_with(&name));
        let far = distance * 3 > letters;
        // `prio` is `priority` cut short, and only by chance `period` with two letters missing.
        let unlike = distance > 1 && !abbreviated;
        (!far || abbreviated).then_some(((unlike, far, distance, !abbreviated), k))
    });
    // The first of several that are equally near.
    near.min_by_key(|(rank, _)| *rank).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] = ["modality", "tier", "deadline", "cpus"];

    #[test]
    fn only_a_near_name_is_suggested() {
        assert_eq!(nearest("teir", KEYS.into_iter()), Some("tier"));
        assert_eq!(nearest("Modality", KEYS.into_iter()), Some("modality"));
        assert_eq!(nearest("dedline", KEYS.into_iter()), Some("deadline"));
        assert_eq!(nearest("gpu", KEYS.into_iter()), None);
        assert_eq!(nearest("mod", KEYS.into_iter()), Some("modality"));
        assert_eq!(nearest("mo", KEYS.into_iter()), None);
        assert_eq!(nearest("cpu", KEYS.into_iter()), Some("cpus"));
        assert_eq!(nearest("prio", ["period", "priority"].into_iter()), Some("priority"));
        assert_eq!(nearest("gpus", ["cpus", "gpu"].into_iter()), Some("gpu"));
        assert_eq!(nearest("tiering", KEYS.into_iter()), Some("tier"));
        assert_eq!(nearest(&"x".repeat(100_000), KEYS.into_iter()), None);
    }

    #[test]
    fn without_a_near_name_the_known_ones_are_listed() {
        assert_eq!(hint("gpu", KEYS.into_iter(), "known"), "known: modality, tier, deadline, cpus");
        assert_eq!(hint("gpu", std::iter::empty(), "defined"), "none is defined");
        let many: Vec<String> = (10..50).map(|n| format!("class-{n}")).collect();
        let text = hint("gpu", many.iter().map(String::as_str), "defined");
        assert!(text.ends_with("class-29 and 20 more"), "{text}");
    }
}
