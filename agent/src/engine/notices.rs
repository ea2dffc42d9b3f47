//! What the person at the screen should know, by the thing that it is about.

use std::collections::BTreeMap;

use downbeat_api::{Notice, Severity};

/// Notices under a subject each; a new one replaces the old one of its subject.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    by_subject: BTreeMap<&'static str, Vec<Notice>>,
}

impl Notices {
    /// Says `notices` of `subject`, in place of what was said before; none takes it back.
    pub fn set(&mut self, subject: &'static str, notices: Vec<Notice>) {
        if notices.is_empty() {
            self.by_subject.remove(subject);
        } else {
            self.by_subject.insert(subject, notices);
        }
    }

    /// All of them, the worst first.
    #[must_use]
    pub fn all(&self) -> Vec<Notice> {
        let mut all: Vec<Notice> = self.by_subject.values().flatten().cloned().collect();
        all.sort_by_key(|notice| std::cmp::Reverse(notice.severity));
        all
    }
}

/// A notice with its remedy.
#[must_use]
pub fn notice(severity: Severity, text: impl Into<String>, remedy: Option<&str>) -> Notice {
    Notice { severity, text: text.into(), remedy: remedy.map(ToOwned::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_a_subject_has_its_latest_word() {
        let mut notices = Notices::default();
        notices.set("a", vec![notice(Severity::Info, "old", None)]);
        notices.set("a", vec![notice(Severity::Info, "new", None)]);
        notices.set("b", vec![notice(Severity::Error, "bad", Some("mend it"))]);
        let texts: Vec<String> = notices.all().into_iter().map(|notice| notice.text).collect();
        assert_eq!(texts, ["bad", "new"]);
        notices.set("b", Vec::new());
        assert_eq!(notices.all().len(), 1);
    }
}
