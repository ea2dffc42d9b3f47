//! `[auto]`: classes for programs that no rule names.

use crate::Modality;

/// `[auto]` of all files together: each key from the last file that gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auto {
    /// Whether programs without a rule are looked at.
    pub enabled: bool,
    /// Per modality, an index into [`crate::PolicySet::classes`]; a modality that is not here is
    /// left alone.
    pub classes: Vec<(Modality, usize)>,
}

impl Auto {
    /// The class for what shows this modality, whether or not discovery is enabled.
    #[must_use]
    pub fn class(&self, modality: Modality) -> Option<usize> {
        self.classes.iter().find(|(of, _)| *of == modality).map(|(_, class)| *class)
    }
}
