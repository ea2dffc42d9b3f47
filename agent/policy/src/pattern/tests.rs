use proptest::prelude::*;

use super::*;

fn matches(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern).expect(pattern).matches(text)
}

#[test]
fn a_pattern_covers_the_whole_text() {
    assert!(matches("ffmpeg", "ffmpeg"));
    assert!(!matches("ffmpeg", "ffmpeg2"));
    assert!(!matches("ffmpeg", "xffmpeg"));
    assert!(matches("*", ""));
    assert!(matches("**", "anything"));
}

#[test]
fn a_star_crosses_slashes() {
    assert!(matches("*/whisper-server", "/opt/whisper/bin/whisper-server"));
    assert!(!matches("*/whisper-server", "whisper-server"));
    assert!(matches("* video *", "/usr/bin/load video --fps 30"));
}

#[test]
fn head_and_tail_do_not_overlap() {
    assert!(!matches("aba*aba", "ababa"));
    assert!(matches("aba*aba", "abaaba"));
    assert!(!matches("a*a", "a"));
}

#[test]
fn sets_are_those_of_a_shell() {
    assert!(matches("cc1[pl]*", "cc1plus"));
    assert!(!matches("cc1[!p]", "cc1p"));
    assert!(matches("cc1[^p]", "cc1o"));
    assert!(matches("[]]", "]"));
    assert!(matches("[!]]", "x"));
    assert!(matches("[a-]", "-"));
    assert!(matches(r"[\]x]", "]"));
    assert!(matches("*[0-9][0-9]*", "worker-17b"));
    assert!(!matches("*[0-9][0-9]", "worker-1b7"));
}

#[test]
fn a_backslash_takes_the_next_character_as_it_is() {
    assert!(matches(r"\*\[\?", "*[?"));
    assert!(!matches(r"\*", "x"));
}

#[test]
fn one_question_mark_is_one_character_of_any_length() {
    assert!(matches("?", "é"));
    assert!(matches("*é?*", "xéüx"));
    assert!(!matches("??", "é"));
}

#[test]
fn what_cannot_be_a_pattern_is_refused() {
    assert_eq!(Pattern::new(""), Err(PatternError::Empty));
    assert_eq!(Pattern::new("[abc"), Err(PatternError::OpenSet));
    assert_eq!(Pattern::new("[!]"), Err(PatternError::OpenSet));
    assert_eq!(Pattern::new("[z-a]"), Err(PatternError::EmptyRange('z', 'a')));
    assert_eq!(Pattern::new("a\\"), Err(PatternError::NothingEscaped));
    assert_eq!(Pattern::new("a\nb"), Err(PatternError::Control('\n')));
    assert_eq!(Pattern::new(&"a".repeat(1025)), Err(PatternError::TooLong(1025)));
}

#[test]
fn many_stars_on_a_long_text_stay_cheap() {
    // A matcher that goes back to each star would need more steps than there are atoms.
    let pattern = Pattern::new(&"*a".repeat(500)).expect("a good pattern");
    let text = "a".repeat(499) + &"b".repeat(2_000_000);
    let start = std::time::Instant::now();
    assert!(!pattern.matches(&text));
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
}

/// The textbook's table of prefixes, for patterns of letters, `*` and `?`.
fn reference(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for p in pattern.chars() {
        let mut next = vec![false; text.len() + 1];
        next[0] = p == '*' && row[0];
        for (i, &c) in text.iter().enumerate() {
            next[i + 1] = match p {
                '*' => row[i + 1] || next[i],
                '?' => row[i],
                _ => row[i] && p == c,
            };
        }
        row = next;
    }
    row[text.len()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn agrees_with_the_reference(pattern in "[abé*?]{1,9}", text in "[abé]{0,12}") {
        prop_assert_eq!(matches(&pattern, &text), reference(&pattern, &text));
    }

    #[test]
    fn a_text_with_everything_escaped_matches_itself(text in "[^\\p{C}]{1,40}") {
        let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
        prop_assert!(matches(&escaped, &text));
    }

    #[test]
    fn no_pattern_panics(pattern in "\\PC{0,20}", text in any::<String>()) {
        if let Ok(pattern) = Pattern::new(&pattern) && pattern.matches(&text) {
            prop_assert!(pattern.may_match(ByteSet::of(&text)));
        }
    }

    #[test]
    fn what_is_told_without_matching_is_true(
        pattern in "[ab*?\\[\\]!-]{1,8}", text in "[ab]{0,8}",
    ) {
        if let Ok(pattern) = Pattern::new(&pattern) && pattern.matches(&text) {
            prop_assert!(text.len() >= pattern.shortest());
            prop_assert!(pattern.may_match(ByteSet::of(&text)));
        }
    }
}
