//! Who ran while threads waited, summed by the class that waited.

use std::collections::BTreeMap;

use downbeat_api::{ClassBlame, Culprit, CulpritKind};

/// Culprits of a class that are kept by name; the others count as one.
pub const NAMED: usize = 32;

/// Who a culprit is.
type Who = (CulpritKind, String);

/// Sums per class that waited; `None` stands for threads that are only watched.
#[derive(Debug, Default)]
pub struct Blame {
    classes: BTreeMap<Option<String>, Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    recent: BTreeMap<Who, u64>,
    total: BTreeMap<Who, u64>,
}

impl Blame {
    /// Takes in what came since the last sample: the class that waited, and for whom.
    pub fn sample(&mut self, waits: impl IntoIterator<Item = (Option<String>, Culprit)>) {
        for sums in self.classes.values_mut() {
            sums.recent.clear();
        }
        for (class, culprit) in waits {
            let Culprit { kind, name, ns } = culprit;
            if ns > 0 {
                let sums = self.classes.entry(class).or_default();
                add(&mut sums.recent, (kind, merged_name(kind, name)), ns);
            }
        }
        for sums in self.classes.values_mut() {
            for (who, ns) in &sums.recent {
                add(&mut sums.total, who.clone(), *ns);
            }
            bound(&mut sums.recent);
            bound(&mut sums.total);
        }
    }

    /// Everything, classes in the order of `classes`, then threads without one. Whoever never
    /// waited is not there.
    #[must_use]
    pub fn classes<'a>(&self, classes: impl IntoIterator<Item = &'a str>) -> Vec<ClassBlame> {
        let named = classes.into_iter().map(|class| Some(class.to_owned()));
        named
            .chain([None])
            .filter_map(|class| {
                let sums = self.classes.get(&class)?;
                let (recent, total) = (worst_first(&sums.recent), worst_first(&sums.total));
                Some(ClassBlame { class, recent, total })
            })
            .collect()
    }

    /// Forgets the classes that a new policy does not have, as ones that waited.
    pub fn keep_classes(&mut self, kept: impl Fn(&str) -> bool) {
        self.classes.retain(|class, _| class.as_deref().is_none_or(&kept));
    }
}

fn add(sums: &mut BTreeMap<Who, u64>, who: Who, ns: u64) {
    let sum = sums.entry(who).or_default();
    *sum = sum.saturating_add(ns);
}

/// Joins the smallest of too many named culprits into the others. One that comes back later
/// starts from zero beside them, so that no time counts twice.
fn bound(sums: &mut BTreeMap<Who, u64>) {
    let mut named: Vec<(u64, Who)> = sums
        .iter()
        .filter(|((_, name), _)| !name.is_empty())
        .map(|(who, ns)| (*ns, who.clone()))
        .collect();
    let excess = named.len().saturating_sub(NAMED);
    named.sort_unstable();
    for (ns, who) in named.into_iter().take(excess) {
        sums.remove(&who);
        add(sums, (CulpritKind::Others, String::new()), ns);
    }
}

/// Kernel threads of one kind and many names (`kworker/0:1-events`, `ksoftirqd/3`) are one.
/// Interrupt threads (`irq/24-nvme0`) differ in what they serve and stay apart.
fn merged_name(kind: CulpritKind, mut name: String) -> String {
    if kind == CulpritKind::Kernel
        && let Some((stem, _)) = name.split_once('/')
        && !stem.is_empty()
        && stem != "irq"
    {
        name.truncate(stem.len());
    }
    name
}

fn worst_first(sums: &BTreeMap<Who, u64>) -> Vec<Culprit> {
    let culprit =
        |((kind, name), ns): (&Who, &u64)| Culprit { kind: *kind, name: name.clone(), ns: *ns };
    let mut culprits: Vec<Culprit> = sums.iter().map(culprit).collect();
    // Stable, so that equals keep their order from one sample to the next.
    culprits.sort_by_key(|culprit| std::cmp::Reverse(culprit.ns));
    culprits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn behind(kind: CulpritKind, name: &str, ns: u64) -> Culprit {
        Culprit { kind, name: name.into(), ns }
    }

    fn voice(culprits: &[Culprit]) -> Vec<(Option<String>, Culprit)> {
        culprits.iter().map(|culprit| (Some("voice".to_owned()), culprit.clone())).collect()
    }

    #[test]
    fn totals_grow_and_recent_ones_are_of_one_sample() {
        let mut blame = Blame::default();
        let (class, program) = (CulpritKind::Class, CulpritKind::Program);
        blame.sample(voice(&[behind(class, "batch", 5), behind(program, "ffmpeg", 9)]));
        blame.sample(voice(&[behind(class, "batch", 6), behind(program, "gone", 0)]));
        let told = blame.classes(["video", "voice"]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].class.as_deref(), Some("voice"));
        assert_eq!(told[0].recent, [behind(class, "batch", 6)]);
        assert_eq!(told[0].total, [behind(class, "batch", 11), behind(program, "ffmpeg", 9)]);
    }

    #[test]
    fn classes_come_in_policy_order_and_watched_threads_last() {
        let mut blame = Blame::default();
        let idle = || behind(CulpritKind::Idle, "", 1);
        blame.sample([(None, idle()), (Some("a".into()), idle()), (Some("b".into()), idle())]);
        let order = |blame: &Blame| -> Vec<Option<String>> {
            blame.classes(["b", "a"]).into_iter().map(|blame| blame.class).collect()
        };
        assert_eq!(order(&blame), [Some("b".to_owned()), Some("a".to_owned()), None]);
        blame.keep_classes(|class| class == "a");
        assert_eq!(order(&blame), [Some("a".to_owned()), None]);
    }

    #[test]
    fn kernel_threads_of_one_kind_are_one() {
        let mut blame = Blame::default();
        let kernel = |name| behind(CulpritKind::Kernel, name, 1);
        blame.sample(voice(&[
            kernel("kworker/0:1"),
            kernel("kworker/u8:2-events"),
            kernel("ksoftirqd/0"),
            kernel("irq/24-nvme0"),
            kernel("irq/25-snd"),
            kernel("/"),
            behind(CulpritKind::Program, "kworker/1", 1),
        ]));
        let names: Vec<(String, u64)> = blame.classes(["voice"])[0]
            .total
            .iter()
            .map(|culprit| (culprit.name.clone(), culprit.ns))
            .collect();
        let expected = [
            ("kworker", 2),
            ("kworker/1", 1),
            ("/", 1),
            ("irq/24-nvme0", 1),
            ("irq/25-snd", 1),
            ("ksoftirqd", 1),
        ];
        assert_eq!(names, expected.map(|(name, ns)| (name.to_owned(), ns)));
    }

    #[test]
    fn a_newcomer_that_is_worse_takes_the_place_of_the_least() {
        let mut blame = Blame::default();
        let many: Vec<Culprit> = (0..NAMED as u64)
            .map(|n| behind(CulpritKind::Program, &format!("p{n}"), 10 + n))
            .collect();
        blame.sample(voice(&many));
        blame.sample(voice(&[behind(CulpritKind::Program, "new", 500)]));
        let total = &blame.classes(["voice"])[0].total;
        assert_eq!(total[0], behind(CulpritKind::Program, "new", 500));
        assert!(total.contains(&behind(CulpritKind::Others, "", 10)), "{total:?}");
        assert!(!total.iter().any(|culprit| culprit.name == "p0"));
    }

    fn any_kind() -> impl Strategy<Value = CulpritKind> {
        use CulpritKind as K;
        prop::sample::select(vec![K::Program, K::Kernel, K::Idle, K::Others, K::Class])
    }

    proptest! {
        #[test]
        fn no_time_is_lost_and_lists_are_bounded(
            samples in prop::collection::vec(
                prop::collection::vec((any_kind(), "[a-f]{0,2}/?[0-9]?", 0..1_000_000_u64), 0..90), 1..6),
        ) {
            let mut blame = Blame::default();
            let mut expected = 0;
            for sample in samples {
                let culprits: Vec<Culprit> = sample.iter().map(|(kind, name, ns)| {
                    behind(*kind, name, *ns)
                }).collect();
                let recent: u64 = culprits.iter().map(|culprit| culprit.ns).sum();
                expected += recent;
                blame.sample(voice(&culprits));
                for told in blame.classes(["voice"]) {
                    let sum = |list: &[Culprit]| list.iter().map(|culprit| culprit.ns).sum::<u64>();
                    prop_assert_eq!((sum(&told.recent), sum(&told.total)), (recent, expected));
                    for list in [&told.recent, &told.total] {
                        let named = list.iter().filter(|culprit| !culprit.name.is_empty()).count();
                        prop_assert!(named <= NAMED);
                        prop_assert!(list.is_sorted_by(|a, b| a.ns >= b.ns));
                    }
                }
            }
        }
    }
}
