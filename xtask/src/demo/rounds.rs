//! The same load under different arrangements, in rounds that take turns, so that what a shared
//! machine does to one arrangement it does to the others as well.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use downbeat_api::{Miss, Mode, Request, Response};
use downbeat_tests::clock::now_ns;
use downbeat_tests::cpu_time::{HostTime, of_process};
use downbeat_tests::processes::Stat;

use super::by_hand::ByHand;
use super::report::{AgentReport, Arrangement, LateJob, Report, Round, Stream, WaitQuantiles};
use super::scene::{CAMERA, MIC, Scene};
use crate::signals::Signals;

/// Length of a round.
const ROUND: Duration = Duration::from_millis(2500);
/// The start of a round in which what the last arrangement left is worked off; not counted.
const SETTLING: Duration = Duration::from_millis(400);
/// Before the first round: hogs, card and agent come to their stride.
const WARM_UP: Duration = Duration::from_secs(2);
/// Switching and reading, per round, at most; the load must not end before the last round.
const SLACK_SECONDS: u64 = 1;
const STREAMS: [&str; 2] = [MIC, CAMERA];

/// Which arrangement when.
#[derive(Debug)]
pub struct Plan {
    rounds: Vec<Arrangement>,
}

impl Plan {
    /// Rounds that fill `seconds`, as many of each arrangement, at least one. Every other turn
    /// runs backwards, so that neither the machine's drift nor what a round leaves to the next
    /// one always falls to the same arrangement.
    pub fn new(seconds: u64, with_fifo: bool) -> Self {
        let turn: &[Arrangement] = if with_fifo {
            &[Arrangement::Disengaged, Arrangement::Engaged, Arrangement::FifoByHand]
        } else {
            &[Arrangement::Disengaged, Arrangement::Engaged]
        };
        let rounds = usize::try_from(seconds * 1000 / ROUND.as_millis() as u64).unwrap_or(0);
        let turns = (rounds / turn.len()).max(1);
        let mut all = turn.repeat(turns);
        all.chunks_mut(turn.len()).skip(1).step_by(2).for_each(<[Arrangement]>::reverse);
        Self { rounds: all }
    }

    /// No load may end before; switches can be slow on a full machine.
    pub fn longest_seconds(&self) -> u64 {
        self.rounds.len() as u64 * (ROUND.as_secs() + 1 + SLACK_SECONDS) + 30
    }
}

/// A round as it was.
struct Window {
    arrangement: Arrangement,
    from_ns: u64,
    to_ns: u64,
    steal: f64,
    others: f64,
    /// CPU time of each of [`STREAMS`].
    stream_cpu: [Duration; STREAMS.len()],
    /// Their processes.
    pids: [u32; STREAMS.len()],
}

impl Window {
    /// Jobs of the streams that missed their deadlines in it, as the agent tells them.
    fn late_jobs(&self, misses: &BTreeMap<u64, Miss>) -> Vec<LateJob> {
        let within = |miss: &&Miss| (self.from_ns..self.to_ns).contains(&miss.release_ns);
        let late = |miss: &Miss| {
            let stream = self.pids.iter().position(|pid| *pid == miss.pid)?;
            Some(LateJob {
                stream: STREAMS[stream].to_owned(),
                response_ns: miss.response_ns,
                cause: miss.cause.kind,
                text: miss.cause.text.clone(),
            })
        };
        misses.values().filter(within).filter_map(late).collect()
    }
}

/// Runs the plan and reads what came of it.
pub fn run(scene: &Scene, plan: &Plan, signals: &Signals) -> Result<Report> {
    signals.sleep(WARM_UP)?;
    let agent = scene.agent().id()?.tid;
    let (begin, agent_before) = (now_ns(), Stat::of(agent)?);
    let mut windows = Vec::new();
    // By their numbers: the agent keeps the latest, about those of one round.
    let mut misses = BTreeMap::new();
    for &arrangement in &plan.rounds {
        windows.push(round(scene, arrangement, signals)?);
        misses.extend(latest_misses(scene)?);
    }
    let (end, agent_after) = (now_ns(), Stat::of(agent)?);
    scene.client()?.request(&Request::Resume)?;
    // Those of the last round's end are told by now.
    signals.sleep(SETTLING)?;
    misses.extend(latest_misses(scene)?);
    let snapshot = scene.agent().snapshot()?;

    let ticks = ticks_per_second()?;
    let cpu = (agent_after.cpu_ticks - agent_before.cpu_ticks) as f64 / ticks;
    let agent = AgentReport {
        rss_bytes: agent_after.rss_pages * page_size()?,
        cpu_share: cpu / ((end - begin) as f64 / 1e9),
        exec_to_set: snapshot.actions.exec_to_set.map(|w| WaitQuantiles {
            count: w.count,
            p50_ns: w.p50_ns,
            p99_ns: w.p99_ns,
        }),
        source: format!("{:?}", snapshot.source),
    };
    let rounds = read(scene, &windows, &misses)?;
    Ok(Report::new(snapshot.kernel, scene.hog_threads, (ROUND, SETTLING), &rounds, agent))
}

fn latest_misses(scene: &Scene) -> Result<BTreeMap<u64, Miss>> {
    match scene.client()?.request(&Request::Misses)? {
        Response::Misses { misses } => Ok(misses.into_iter().map(|miss| (miss.id, miss)).collect()),
        other => bail!("the agent answered {other:?} when asked for its misses"),
    }
}

fn round(scene: &Scene, arrangement: Arrangement, signals: &Signals) -> Result<Window> {
    let mut client = scene.client()?;
    let request = match arrangement {
        Arrangement::Engaged => Request::Resume,
        Arrangement::Disengaged | Arrangement::FifoByHand => Request::Pause,
    };
    client.request(&request)?;
    let by_hand = match arrangement {
        Arrangement::FifoByHand => Some(ByHand::set(scene)?),
        Arrangement::Disengaged | Arrangement::Engaged => None,
    };
    let mut pids = [0; STREAMS.len()];
    for (pid, name) in pids.iter_mut().zip(STREAMS) {
        *pid = scene.worker(name)?.pid.context("a worker without a process")?;
    }
    let processes = scene.processes();
    signals.sleep(SETTLING)?;
    let (from_ns, before) = (now_ns(), HostTime::read()?);
    let (streams_before, demo_before) = (cpu_times(&pids)?, cpu_times(&processes)?);
    signals.sleep(ROUND - SETTLING)?;
    let (to_ns, after) = (now_ns(), HostTime::read()?);
    let (streams_after, demo_after) = (cpu_times(&pids)?, cpu_times(&processes)?);
    // The arrangement was what it is counted as until the end.
    let mode = client.snapshot()?.mode;
    let wanted = if arrangement == Arrangement::Engaged { Mode::Engaged } else { Mode::Paused };
    ensure!(mode == wanted, "the agent is {mode:?} in a round that is {arrangement}");
    drop(by_hand);
    let stream_cpu = std::array::from_fn(|i| streams_after[i].saturating_sub(streams_before[i]));
    let demo = demo_after.iter().sum::<Duration>().saturating_sub(demo_before.iter().sum());
    let all = available_cpus()? as f64 * (to_ns - from_ns) as f64 / 1e9;
    Ok(Window {
        arrangement,
        from_ns,
        to_ns,
        steal: after.steal_since(&before),
        // The two clocks may differ by a tick, and nothing is less than nothing.
        others: (after.busy_since(&before) - demo.as_secs_f64() / all).max(0.0),
        stream_cpu,
        pids,
    })
}

fn cpu_times(pids: &[u32]) -> Result<Vec<Duration>> {
    pids.iter().map(|&pid| of_process(pid)).collect()
}

fn available_cpus() -> Result<usize> {
    Ok(std::thread::available_parallelism().context("counting CPUs")?.get())
}

fn read(scene: &Scene, windows: &[Window], misses: &BTreeMap<u64, Miss>) -> Result<Vec<Round>> {
    let records = STREAMS.iter().map(|name| scene.frames(name)).collect::<Result<Vec<_>, _>>()?;
    let cpus = available_cpus()?;
    let work = scene.work()?;
    let rounds = windows.iter().map(|window| {
        let Window { arrangement, from_ns, to_ns, steal, others, stream_cpu, pids: _ } = *window;
        let seconds = (to_ns - from_ns) as f64 / 1e9;
        let done: f64 = work.iter().map(|record| record.between(from_ns, to_ns)).sum();
        Round {
            arrangement,
            seconds,
            cpus,
            steal,
            others,
            work_per_second: done / seconds,
            late_jobs: window.late_jobs(misses),
            streams: STREAMS
                .iter()
                .zip(&records)
                .zip(stream_cpu)
                .map(|((name, record), cpu)| Stream {
                    name: (*name).to_owned(),
                    deadline_ns: record.deadline_ns,
                    frames: record.between(from_ns, to_ns).copied().collect(),
                    cpu_seconds: cpu.as_secs_f64(),
                })
                .collect(),
        }
    });
    Ok(rounds.collect())
}

fn ticks_per_second() -> Result<f64> {
    use nix::unistd::{SysconfVar, sysconf};
    let ticks = sysconf(SysconfVar::CLK_TCK).context("sysconf")?;
    Ok(ticks.context("sysconf: no clock ticks")? as f64)
}

fn page_size() -> Result<u64> {
    use nix::unistd::{SysconfVar, sysconf};
    let size = sysconf(SysconfVar::PAGE_SIZE).context("sysconf")?;
    Ok(u64::try_from(size.context("sysconf: no page size")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_seconds_are_four_rounds_of_each() {
        let count = |plan: &Plan, what| plan.rounds.iter().filter(|&&a| a == what).count();
        let plan = Plan::new(20, false);
        assert_eq!(plan.rounds.len(), 8);
        assert_eq!(count(&plan, Arrangement::Engaged), 4);
        let [first, second] = [&plan.rounds[..2], &plan.rounds[2..4]];
        assert_eq!(first, [second[1], second[0]], "every other turn runs backwards");
        let plan = Plan::new(60, true);
        assert_eq!(plan.rounds.len(), 24);
        assert_eq!(count(&plan, Arrangement::FifoByHand), 8);
        assert_eq!(Plan::new(1, true).rounds.len(), 3, "one of each, however short");
    }
}
