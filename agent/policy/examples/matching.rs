//! What matching costs: `cargo run --release -p downbeat-policy --example matching [ROUNDS]`.
//!
//! Two kinds of processes against 200 rules, at 1,000, 10,000 and 50,000 processes: those of an
//! ordinary host, of which some match, and such as no rule matches, so that every rule is asked.
//! One line of JSON per kind and size: the median and the fastest of the rounds.

use std::time::{Duration, Instant};

use downbeat_policy::{ParentFacts, PolicySet, ProcessFacts, Source};

const RULES: usize = 200;
const SIZES: [usize; 3] = [1_000, 10_000, 50_000];

/// Rules of all kinds, as a large host has them.
fn rules() -> PolicySet {
    let mut text = String::from("schema = 1\n[class.a]\ntier = \"background\"\n");
    for i in 0..RULES {
        let keys = match i % 8 {
            0 => format!("exe = \"*/program-{i}\""),
            1 => format!("comm = [\"prog-{i}\", \"*[0-9]x{i}\"]"),
            2 => format!("cmdline = \"* --job-{i} *\""),
            3 => format!("exe = \"whisper-*\", user = \"user-{i}\""),
            4 => format!("cgroup = \"/system.slice/unit-{i}.*\", parent = \"systemd\""),
            5 => format!("unit = \"service-{i}\""),
            6 => format!("exe = \"python3*\", cmdline = \"*module_{i}.server*\""),
            _ => format!("exe = [\"server-{i}\", \"tool-{i}\"], thread = \"worker-*\""),
        };
        text += &format!("[[rule]]\nclass = \"a\"\nmatch = {{ {keys} }}\n");
    }
    PolicySet::parse(&[Source { path: "generated.toml".into(), text }])
        .unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn process(i: usize, ordinary: bool) -> ProcessFacts {
    let name = match (ordinary, i % 4) {
        (true, 0) => format!("program-{}", i % 400),
        (true, 1) => "python3.11".to_owned(),
        (true, 2) => format!("tool-{}", i % 400),
        _ => format!("daemon-{i}"),
    };
    let exe = format!("/usr/lib/some/folder/{name}");
    ProcessFacts {
        cmdline: format!("{exe} --port {i} --threads 4 -m module_{}.server --log info", i % 1000),
        exe: Some(exe),
        comm: name.chars().take(15).collect(),
        uid: u32::try_from(1_000 + i % 50).unwrap_or_default(),
        user: Some(format!("person-{}", i % 50)),
        cgroup: Some(format!("/system.slice/job-{i}.service")),
        unit: Some(format!("job-{i}.service")),
        parent: Some(ParentFacts {
            exe: Some("/usr/lib/systemd/systemd".into()),
            comm: "systemd".into(),
        }),
        ..ProcessFacts::default()
    }
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(11_usize);
    let set = rules();
    for ordinary in [true, false] {
        for size in SIZES {
            let processes: Vec<ProcessFacts> = (0..size).map(|i| process(i, ordinary)).collect();
            let mut matched = 0;
            let mut times: Vec<Duration> = (0..rounds.max(1))
                .map(|_| {
                    let start = Instant::now();
                    matched =
                        processes.iter().filter(|p| set.classify(p, &p.comm).is_some()).count();
                    start.elapsed()
                })
                .collect();
            times.sort_unstable();
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let median = times[times.len() / 2];
            println!(
                "{{\"processes\":{size},\"rules\":{RULES},\"ordinary\":{ordinary},\
                 \"matched\":{matched},\"median_ms\":{:.3},\"fastest_ms\":{:.3},\
                 \"median_ns_per_process\":{:.0}}}",
                ms(median),
                ms(times[0]),
                median.as_secs_f64() * 1e9 / size as f64,
            );
        }
    }
}
