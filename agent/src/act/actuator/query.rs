//! What the actuator knows, and what the kernel says, for those who only look.

use std::io;

use super::Actuator;
use crate::act::control::Control;
use crate::act::outcome::{LeverEntry, Standing};
use crate::act::subject::{Key, Subject};
use crate::act::value::{Lever, Value};

impl<C: Control> Actuator<C> {
    /// Each lever of a subject, for `explain`.
    #[must_use]
    pub fn levers(&self, key: impl Into<Key>) -> Vec<(Lever, &LeverEntry)> {
        let Some((_, levers)) = self.subjects.get(&key.into()) else {
            return Vec::new();
        };
        Lever::ALL.into_iter().filter_map(|lever| Some((lever, levers.get(&lever)?))).collect()
    }

    /// What a lever was before us, or is where it is not ours.
    ///
    /// # Errors
    /// As for [`Control::read`].
    pub fn before(&self, subject: &Subject, lever: Lever) -> io::Result<Value> {
        let known = self.subjects.get(&subject.key()).and_then(|(_, levers)| levers.get(&lever));
        match known {
            Some(LeverEntry { standing: Standing::Ours(change), .. }) => Ok(change.old.clone()),
            _ => self.control.read(lever, subject),
        }
    }

    /// What a lever is now.
    ///
    /// # Errors
    /// As for [`Control::read`].
    pub fn now(&self, subject: &Subject, lever: Lever) -> io::Result<Value> {
        self.control.read(lever, subject)
    }

    /// What it acts through.
    pub fn control(&self) -> &C {
        &self.control
    }

    /// Every subject but the threads, in the order of their names.
    #[must_use]
    pub fn beside_threads(&self) -> Vec<&Subject> {
        let mut subjects: Vec<&Subject> =
            self.subjects.values().map(|(subject, _)| subject).collect();
        subjects.retain(|subject| subject.thread().is_none());
        subjects.sort_unstable();
        subjects
    }

    /// Whether a lever of the subject was refused or handed off.
    #[must_use]
    pub fn wants_attention(&self, key: impl Into<Key>) -> bool {
        self.subjects.get(&key.into()).is_some_and(|(_, levers)| {
            levers
                .values()
                .any(|e| matches!(e.standing, Standing::HandedOff(_) | Standing::Refused(_)))
        })
    }

    /// Whether something is known of a subject and it is there still, as the one that was meant.
    #[must_use]
    pub fn is_there(&self, key: impl Into<Key>) -> bool {
        let known = self.subjects.get(&key.into());
        known.is_some_and(|(subject, _)| self.control.is_same(subject))
    }

    /// Values that would go back now.
    #[must_use]
    pub fn journalled(&self) -> u64 {
        self.ours().count() as u64
    }

    /// Writes to the journal that failed: each left values that were not set.
    #[must_use]
    pub fn journal_failures(&self) -> u64 {
        self.journal.failures()
    }
}
