//! The report as a table, for people.

use std::fmt;

use super::report::{AgentReport, LateJob, Report, WaitQuantiles, ms};
use super::work::{Ratio, WorkComparison};

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, lowest, highest, pairs: _ } = self;
        let percent = |ratio: &f64| ratio * 100.0;
        write!(f, "{:.1} % ({:.1} to {:.1})", percent(median), percent(lowest), percent(highest))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "kernel {}, {} CPUs, {} hog threads and a bursty one; rounds of {} s in turn, of which \
             the first {} s are settling and not counted",
            self.kernel, self.cpus, self.hog_threads, self.round_seconds, self.settling_seconds
        )?;
        writeln!(
            f,
            "\n{:<14}{:<9}{:>7}{:>8}{:>9}{:>12}{:>12}{:>12}{:>12}{:>12}",
            "", "stream", "frames", "missed", "", "p50", "p99", "p99.9", "max", "CPU each"
        )?;
        for arrangement in &self.arrangements {
            for (index, stream) in arrangement.streams.iter().enumerate() {
                let head =
                    if index == 0 { arrangement.arrangement.to_string() } else { String::new() };
                writeln!(
                    f,
                    "{head:<14}{:<9}{:>7}{:>8}{:>8.2}%{:>12}{:>12}{:>12}{:>12}{:>12}",
                    stream.name,
                    stream.frames,
                    stream.missed,
                    stream.miss_share * 100.0,
                    ms(stream.p50_ns),
                    ms(stream.p99_ns),
                    ms(stream.p999_ns),
                    ms(stream.max_ns),
                    ms(stream.cpu_per_frame_ns)
                )?;
            }
            let late: Vec<String> = arrangement
                .streams
                .iter()
                .filter(|stream| stream.late_releases > 0)
                .map(|stream| {
                    format!(
                        ", {} {} frames sent late (without them {} missed)",
                        stream.late_releases, stream.name, stream.missed_sent_in_time
                    )
                })
                .collect();
            writeln!(
                f,
                "{:<14}background work {:.0} /s, streams {:.1} % of one CPU, steal {:.1} %, others {:.1} %{}{}",
                "",
                arrangement.work_per_second,
                arrangement.streams.iter().map(|stream| stream.cpu_share).sum::<f64>() * 100.0,
                arrangement.steal * 100.0,
                arrangement.others * 100.0,
                match arrangement.noisy_rounds {
                    0 => String::new(),
                    n => format!(" ({n} of {} rounds above 5 %)", arrangement.rounds),
                },
                late.concat()
            )?;
            let mut causes: Vec<_> = arrangement.causes.iter().collect();
            causes.sort_by_key(|(_, misses)| std::cmp::Reverse(**misses));
            let causes: Vec<_> =
                causes.iter().map(|(cause, misses)| format!("{misses} {}", cause.name())).collect();
            if !causes.is_empty() {
                writeln!(f, "{:<14}the agent's causes of late jobs: {}", "", causes.join(", "))?;
            }
            for LateJob { stream, response_ns, cause: _, text } in &arrangement.longest {
                writeln!(f, "{:<14}{stream} {}: {text}", "", ms(Some(*response_ns)))?;
            }
        }
        if let Some(first) = self.work.first() {
            writeln!(
                f,
                "\nbackground work against the disengaged round of the same turn, median of {} \
                 pairs (lowest to highest):",
                first.plain.pairs.len()
            )?;
        }
        for WorkComparison { arrangement, plain, per_cpu_second_left } in &self.work {
            writeln!(
                f,
                "{arrangement:<14}plain {plain}; per CPU-second that the frames left \
                 {per_cpu_second_left}"
            )?;
        }
        let AgentReport { rss_bytes, cpu_share, exec_to_set, source } = &self.agent;
        writeln!(
            f,
            "agent: {:.1} MiB resident, {:.2} % of one core, source {source}",
            *rss_bytes as f64 / f64::from(1 << 20),
            cpu_share * 100.0
        )?;
        if let Some(WaitQuantiles { count, p50_ns, p99_ns }) = exec_to_set {
            writeln!(
                f,
                "exec to last thread set: p50 {}, p99 {} over {count}",
                ms(*p50_ns),
                ms(*p99_ns)
            )?;
        }
        Ok(())
    }
}
