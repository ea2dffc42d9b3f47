//! TOML to classes and rules.
//!
//! One file is read by [`class`] and [`rule`] through [`table`], which knows the place and the full
//! name of every key. Classes may come from any file of the set, so rules are tied to them last.

mod auto;
mod class;
mod inherit;
mod notes;
mod rule;
mod suggest;
mod table;
mod value;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use toml::de::DeTable;

use self::auto::AutoDraft;
use self::class::ClassDraft;
use self::notes::Notes;
use self::rule::RuleDraft;
use self::table::{Field, Table};
use crate::index::Index;
use crate::{Origin, PolicySet, Problem, Source, language};

/// The version of the policy language that this crate reads: `schema = 1`.
pub const SCHEMA: i64 = 1;

impl PolicySet {
    /// Reads all files, in the order given. A file needs `schema = 1` and nothing else: one
    /// without classes and rules is good.
    ///
    /// # Errors
    /// Every problem of every file, in file and line order; after a TOML syntax error or a
    /// `schema` of another version, the rest of that file is not looked at.
    pub fn parse(sources: &[Source]) -> Result<Self, Vec<Problem>> {
        let mut files: Vec<File<'_>> = sources.iter().map(File::read).collect();
        let names = tell_classes_apart(&mut files);
        // A class may well stand in a file that could not be read: saying that it is unknown
        // would send the reader to the wrong place.
        let mut set = Self::default();
        if files.iter().all(|file| file.complete) {
            tie_rules_to_classes(&mut files, &names);
            set.auto = auto::joined_up(&mut files, &names);
        }
        // In the order of files and of the classes in them.
        set.classes.extend(inherit::classes(&mut files).into_values());
        let mut problems = Vec::new();
        for file in files {
            problems.extend(file.notes.into_problems());
            set.rules.extend(file.rules.into_iter().map(|draft| draft.rule));
        }
        if problems.is_empty() {
            set.rules.sort_by_key(|rule| Reverse(rule.priority));
            set.index = Index::new(&set.rules);
            Ok(set)
        } else {
            Err(problems)
        }
    }
}

/// One file of the set.
struct File<'s> {
    notes: Notes<'s>,
    /// In the order of their definition.
    classes: Vec<ClassDraft>,
    /// In the order of their definition.
    rules: Vec<RuleDraft>,
    auto: AutoDraft,
    /// Whether all of it could be looked at.
    complete: bool,
}

impl<'s> File<'s> {
    fn read(source: &'s Source) -> Self {
        let notes = Notes::new(source);
        let mut file = Self {
            notes,
            classes: Vec::new(),
            rules: Vec::new(),
            auto: AutoDraft::default(),
            complete: false,
        };
        match DeTable::parse(&source.text) {
            Ok(document) => file.read_document(&Table::root(document.get_ref())),
            Err(error) => {
                let span = error.span().unwrap_or(source.text.len()..source.text.len());
                let message = error.message().replace('\n', ", ");
                let there = match source.text.get(span.clone()).map(str::trim) {
                    None | Some("") => String::new(),
                    Some(text) => format!(", at `{}`", table::shown(text)),
                };
                file.notes.add(span.start, format!("not TOML: {message}{there}"));
            }
        }
        file
    }

    fn read_document(&mut self, root: &Table<'_>) {
        if !self.knows_schema(root) {
            return;
        }
        self.complete = true;
        root.refuse_unknown(language::FILE, &mut self.notes);
        if let Some(classes) = root.get("class") {
            self.read_classes(&classes);
        }
        if let Some(auto) = root.get("auto") {
            self.auto = auto::read(&auto, &mut self.notes);
        }
        if let Some(rules) = root.get("rule") {
            self.rules = rule::read_all(&rules, &mut self.notes);
        }
    }

    /// Whether the rest of the file is worth a look. A file that forgot its `schema` is.
    fn knows_schema(&mut self, root: &Table<'_>) -> bool {
        let Some(field) = root.get("schema") else {
            self.notes.add(0, format!("schema: missing; write `schema = {SCHEMA}` at the top"));
            return true;
        };
        match field.integer() {
            Some(SCHEMA) => true,
            Some(other) => {
                field.refuse(
                    format!("{other} is not known to this version, which reads schema {SCHEMA}"),
                    &mut self.notes,
                );
                false
            }
            None => {
                field.wrong_type(&format!("the number {SCHEMA}"), &mut self.notes);
                true
            }
        }
    }

    fn read_classes(&mut self, classes: &Field<'_>) {
        let Some(table) = classes.table("tables; write `[class.NAME]`", &mut self.notes) else {
            return;
        };
        for field in table.fields() {
            self.classes.push(ClassDraft::read(&field, &mut self.notes));
        }
    }
}

/// Where every class of the set is defined, and which place it has in [`PolicySet::classes`].
type ClassNames = BTreeMap<String, (usize, Origin)>;

/// Gives each class its place and refuses a second one of the same name.
fn tell_classes_apart(files: &mut [File<'_>]) -> ClassNames {
    let mut names = ClassNames::new();
    for File { notes, classes, .. } in files {
        for draft in classes {
            let place = names.len();
            match names.get(&draft.name) {
                None => {
                    names.insert(draft.name.clone(), (place, draft.origin.clone()));
                }
                Some((_, first)) => {
                    let key = table::joined("class", &draft.name);
                    notes.add(
                        draft.at,
                        format!("{key}: already defined at {first}; rename one of the two"),
                    );
                }
            }
        }
    }
    names
}

fn tie_rules_to_classes(files: &mut [File<'_>], names: &ClassNames) {
    for File { notes, rules, .. } in files {
        for draft in rules {
            let Some((at, name)) = &draft.class else {
                continue;
            };
            match names.get(name) {
                Some((place, _)) => draft.rule.class = *place,
                None => {
                    let hint = suggest::hint(name, names.keys().map(String::as_str), "defined");
                    notes
                        .add(*at, format!("rule.class: no class `{}`; {hint}", table::shown(name)));
                }
            }
        }
    }
}
