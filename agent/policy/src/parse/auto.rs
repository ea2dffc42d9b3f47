//! `[auto]`.

use super::notes::Notes;
use super::table::{Field, joined, shown};
use super::{ClassNames, File, suggest};
use crate::{Auto, Modality, language};

/// `[auto]` of one file.
#[derive(Default)]
pub(super) struct AutoDraft {
    /// Byte offset of `enabled`, and its value.
    enabled: Option<(usize, bool)>,
    /// Byte offset of a class's name, and the name.
    classes: Vec<(Modality, usize, String)>,
}

/// Reads the table. What is wrong is reported and left out.
pub(super) fn read(field: &Field<'_>, notes: &mut Notes<'_>) -> AutoDraft {
    let Some(table) = field.table("a table such as { enabled = true, audio = \"voice\" }", notes)
    else {
        return AutoDraft::default();
    };
    table.refuse_unknown(language::AUTO, notes);
    let enabled = table.get("enabled");
    let enabled = enabled.and_then(|field| Some((field.at(), field.flag(notes)?)));
    let mut classes = Vec::new();
    for modality in Modality::ALL.into_iter().filter(|modality| *modality != Modality::Other) {
        let Some(field) = table.get(modality.name()) else { continue };
        if let Some(name) = field.string("the name of a class", notes) {
            classes.push((modality, field.value_at(), name.to_owned()));
        }
    }
    AutoDraft { enabled, classes }
}

/// Each key from the last file that gives it.
pub(super) fn joined_up(files: &mut [File<'_>], names: &ClassNames) -> Auto {
    let mut auto = Auto::default();
    let mut enabled_at = None;
    for (f, File { notes, auto: draft, .. }) in files.iter_mut().enumerate() {
        if let Some((at, enabled)) = draft.enabled {
            auto.enabled = enabled;
            enabled_at = Some((f, at));
        }
        for (modality, at, name) in &draft.classes {
            let Some((class, _)) = names.get(name) else {
                let key = joined("auto", modality.name());
                let hint = suggest::hint(name, names.keys().map(String::as_str), "defined");
                notes.add(*at, format!("{key}: no class `{}`; {hint}", shown(name)));
                continue;
            };
            match auto.classes.iter_mut().find(|(of, _)| of == modality) {
                Some((_, known)) => *known = *class,
                None => auto.classes.push((*modality, *class)),
            }
        }
    }
    let named = files.iter().any(|file| !file.auto.classes.is_empty());
    if let (true, false, Some((f, at))) = (auto.enabled, named, enabled_at) {
        files[f].notes.add(
            at,
            "auto.enabled: no class is named for any modality; write for example `audio = \
             \"voice\"` beside it"
                .to_owned(),
        );
    }
    auto.classes.sort_unstable();
    auto
}
