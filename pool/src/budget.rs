//! Whether the declared threads have the CPUs that they are declared for: pure.

use std::collections::BTreeSet;

use crate::config::{CpuList, Media, Program, WorkerConfig};

/// What is wrong with the sum of what is declared, in words; `cpus` are those of the pool. Workers
/// whose number of threads nobody declared are not counted.
#[must_use]
pub fn oversubscribed(configs: &[&WorkerConfig], cpus: &CpuList) -> Vec<String> {
    let claims: Vec<Claim<'_>> = configs.iter().filter_map(|it| Claim::of(it, cpus)).collect();
    let realtime: Vec<_> = claims.iter().filter(|it| it.realtime).collect();
    let mut sets: Vec<&CpuList> = realtime.iter().map(|claim| &claim.cpus).collect();
    sets.sort_by_key(|set| (set.0.len(), &set.0));
    sets.dedup();
    let mut said: Vec<String> = Vec::new();
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for set in sets {
        // Those that can run nowhere else.
        let within: Vec<_> = realtime.iter().filter(|it| it.cpus.0.is_subset(&set.0)).collect();
        let threads: usize = within.iter().map(|claim| claim.threads).sum();
        let names: Vec<_> = within.iter().map(|claim| claim.name).collect();
        if threads > set.0.len() && names.iter().any(|name| told.insert(name)) {
            said.push(format!(
                "oversubscribed: real-time {} {} declared with {threads} threads for {} (CPUs \
                 {set}); lower `threads` or `instances`, or give more `cpus`",
                names.join(", "),
                if names.len() == 1 { "is" } else { "are" },
                count(set.0.len()),
            ));
        }
    }
    let all: usize = claims.iter().map(|claim| claim.threads).sum();
    if said.is_empty() && all > cpus.0.len() {
        said.push(format!(
            "oversubscribed: all workers together are declared with {all} threads for {}; what has \
             no deadline yields, or lower `threads` or `instances`",
            count(cpus.0.len())
        ));
    }
    said
}

fn count(cpus: usize) -> String {
    if cpus == 1 { "1 CPU".into() } else { format!("{cpus} CPUs") }
}

/// The threads of a worker with all its instances.
struct Claim<'a> {
    name: &'a str,
    realtime: bool,
    threads: usize,
    cpus: CpuList,
}

impl<'a> Claim<'a> {
    fn of(config: &'a WorkerConfig, all: &CpuList) -> Option<Self> {
        let placement = &config.placement;
        let own = placement.cpus.as_ref();
        // Built-in ones compute on one thread unless they are told otherwise.
        let one = config.program.is_built_in().then_some(1);
        let each = placement.threads.or(one).or_else(|| own.map(|cpus| cpus.0.len()))?;
        if config.program == Program::Elsewhere {
            return None;
        }
        let cpus = match own {
            Some(own) => CpuList(own.0.intersection(&all.0).copied().collect()),
            None => all.clone(),
        };
        let media = matches!(config.media, Some(Media::Audio | Media::Video));
        Some(Self {
            name: &config.name,
            realtime: media || config.program == Program::Denoise,
            threads: each.saturating_mul(config.instances.max),
            cpus,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Instances;

    fn cpus(text: &str) -> CpuList {
        CpuList::parse(text).unwrap()
    }

    fn worker(name: &str, media: Option<Media>, set: Option<&str>, threads: usize) -> WorkerConfig {
        let mut config = WorkerConfig::new(name, Program::Model("m".into()));
        config.media = media;
        config.placement.cpus = set.map(cpus);
        config.placement.threads = Some(threads);
        config
    }

    fn said(configs: &[WorkerConfig]) -> Vec<String> {
        oversubscribed(&configs.iter().collect::<Vec<_>>(), &cpus("0-3"))
    }

    #[test]
    fn what_fits_is_not_mentioned() {
        let audio = worker("mic", Some(Media::Audio), Some("0"), 1);
        let video = worker("cam", Some(Media::Video), Some("1-3"), 3);
        assert_eq!(said(&[audio, video]), [""; 0]);
        assert_eq!(said(&[]), [""; 0]);
    }

    #[test]
    fn real_time_workers_that_share_too_few_cpus_are_named_once() {
        let audio = worker("mic", Some(Media::Audio), Some("0"), 1);
        let video = worker("cam", Some(Media::Video), Some("0-1"), 2);
        let words = said(&[audio, video]);
        assert_eq!(words.len(), 1, "{words:?}");
        assert!(words[0].contains("mic, cam are declared with 3 threads for 2 CPUs (CPUs 0-1)"));
    }

    #[test]
    fn instances_count() {
        let mut audio = worker("mic", Some(Media::Audio), Some("2"), 1);
        audio.instances = Instances { min: 1, max: 2, spare: 0 };
        assert!(said(&[audio])[0].contains("mic is declared with 2 threads for 1 CPU (CPUs 2)"));
    }

    #[test]
    fn background_work_beyond_the_host_is_told_of_as_a_whole() {
        let words =
            said(&[worker("a", None, None, 3), worker("b", Some(Media::Background), None, 2)]);
        assert_eq!(words.len(), 1);
        assert!(words[0].contains("all workers together are declared with 5 threads for 4 CPUs"));
    }

    #[test]
    fn commands_that_declare_no_threads_are_not_counted() {
        let command = Program::Command(vec!["sleep".into()]);
        let mut free = WorkerConfig::new("free", command);
        free.instances = Instances { min: 9, max: 9, spare: 0 };
        assert_eq!(said(&[free]), [""; 0]);
    }
}
