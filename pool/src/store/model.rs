//! One model of the folder: its versions, which of them is to be served, and why another is not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::description::ModelDescription;
use super::facts::{IndexEntry, Report, Stamp, State, Target, Wish};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// As seen last; nothing where the folder is not there.
    pub seen: Option<BTreeMap<String, Option<Stamp>>>,
    /// When it may be read, if it still looks so.
    pub due: Duration,
    /// Whether this look of it was read, or is being read.
    pub settled: bool,
    /// Why the folder as it is now was not taken.
    pub problem: Option<String>,
    /// As taken last.
    pub taken: Option<(Arc<ModelDescription>, Arc<[String]>)>,
    /// By number.
    pub versions: BTreeMap<u32, Version>,
    /// What is asked for.
    pub wish: Option<Wish>,
}

/// One version.
#[derive(Clone, Debug, Default)]
pub struct Version {
    /// What can be loaded; with a problem beside it, what was loaded before the file became bad.
    pub target: Option<Target>,
    /// What is wrong with the file as it is now.
    pub problem: Option<String>,
    /// What the workers say of the target.
    pub report: Option<Report>,
}

impl Version {
    fn is_ready(&self) -> bool {
        self.target.is_some() && self.report == Some(Report::Ready)
    }

    /// Whether workers could be started with it.
    fn is_good(&self) -> bool {
        let failed = matches!(self.report, Some(Report::Failed(_)));
        self.target.is_some() && self.problem.is_none() && !failed
    }

    /// What goes on being served although its file is bad now; else nothing.
    pub fn kept_if_ready(self) -> Self {
        if self.is_ready() { self } else { Self::default() }
    }
}

impl Model {
    /// What is to be served, or would be.
    pub fn best(&self) -> Option<&Target> {
        let wished = |number: u32| match self.wish {
            Some(Wish::Version(version)) => version == number,
            Some(Wish::Newest) | None => true,
        };
        let newest_first = || self.versions.iter().rev();
        let good = newest_first().find(|(number, it)| wished(**number) && it.is_good());
        // Better an old answer than none.
        let (_, version) = good.or_else(|| newest_first().find(|(_, it)| it.is_ready()))?;
        version.target.as_ref()
    }

    /// Gives what failed another chance.
    pub fn forgive(&mut self) {
        for version in self.versions.values_mut() {
            if matches!(version.report, Some(Report::Failed(_))) {
                version.report = None;
            }
        }
    }

    /// Why a wish cannot be fulfilled.
    pub fn reason(&self, wish: Wish) -> String {
        let version = match wish {
            Wish::Version(number) => self.versions.get(&number),
            Wish::Newest => self.versions.values().next_back(),
        };
        let of_version = version.and_then(|version| match (&version.problem, &version.report) {
            (Some(problem), _) => Some(problem.clone()),
            (None, Some(Report::Failed(reason))) => Some(reason.clone()),
            _ => None,
        });
        of_version.or_else(|| self.problem.clone()).unwrap_or_else(|| self.unread().into())
    }

    /// Why there is nothing to say of it yet.
    fn unread(&self) -> &'static str {
        if self.seen.is_none() {
            "its folder is not there; put it into the model folder"
        } else {
            "its folder has just changed; it is read when it has stayed the same for a second"
        }
    }

    pub fn index(&self, name: &str) -> Vec<IndexEntry> {
        let entry =
            |version, state, reason| IndexEntry { name: name.into(), version, state, reason };
        if self.versions.is_empty() {
            return vec![match (&self.problem, self.seen.is_some()) {
                (Some(problem), _) => entry(None, State::Unavailable, problem.clone()),
                (None, true) => entry(None, State::Loading, self.unread().into()),
                (None, false) => entry(None, State::Unavailable, self.unread().into()),
            }];
        }
        let target = self.wish.and(self.best()).map(|target| target.artifact.version);
        let describe = |(&number, version): (&u32, &Version)| {
            let is_target = target == Some(number);
            let mut reasons: Vec<&str> = version.problem.as_deref().into_iter().collect();
            // What keeps the folder as it is now from being taken is told where it matters.
            if is_target || target.is_none() {
                reasons.extend(self.problem.as_deref());
            }
            let state = match &version.report {
                Some(Report::Ready) if version.target.is_some() => State::Ready,
                Some(Report::Failed(reason)) => {
                    reasons.push(reason);
                    State::Unavailable
                }
                _ if is_target => State::Loading,
                _ => {
                    if reasons.is_empty() {
                        reasons.push("unloaded");
                    }
                    State::Unavailable
                }
            };
            entry(Some(number), state, reasons.join("; "))
        };
        self.versions.iter().map(describe).collect()
    }
}
