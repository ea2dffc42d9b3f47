//! A storm of wake-ups, `hackbench`, whose process is known before it runs.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::die_with_this_thread;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;

use downbeat_tests::cpu_time::HostTime;

/// Groups of 20 senders and 20 receivers.
pub const GROUPS: u32 = 2;

/// A storm that has not begun.
#[derive(Debug)]
pub struct Storm {
    child: Child,
}

/// A storm that is over.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// As hackbench measures it: from the moment all its processes are there.
    pub wall: Duration,
    /// CPU time of all its processes.
    pub cpu: Duration,
    /// Share of all CPUs' time that went to anything else: other programs, the hypervisor.
    pub others: f64,
}

impl Storm {
    /// Starts its process, which waits.
    pub fn prepare(loops: u32) -> Result<Self> {
        let mut command = Command::new("sh");
        let script = format!("read -r go && exec hackbench -l {loops} -g {GROUPS}");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        die_with_this_thread(&mut command, Signal::SIGKILL);
        Ok(Self { child: command.spawn().context("sh: starting it")? })
    }

    /// The process that will be hackbench's first one.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it pass.
    pub fn pass(mut self) -> Result<Passed> {
        let (before, host, began) = (children_cpu()?, HostTime::read()?, Instant::now());
        let mut stdin = self.child.stdin.take().context("the storm has no input")?;
        stdin.write_all(b"go\n").context("starting the storm")?;
        drop(stdin);
        let stdout = self.child.stdout.take().context("the storm has no output")?;
        let text = std::io::read_to_string(stdout).context("hackbench: reading its output")?;
        let status = self.child.wait().context("hackbench")?;
        ensure!(status.success(), "hackbench: {status}");
        let wall = wall_time(&text)
            .with_context(|| format!("hackbench told no time in {text:?}: is it rt-tests' own?"))?;
        let cpu = children_cpu()?.saturating_sub(before);
        let now = HostTime::read()?;
        let taken = now.busy_since(&host) + now.steal_since(&host);
        let cpus = thread::available_parallelism().context("counting CPUs")?.get() as f64;
        let own = cpu.as_secs_f64() / (cpus * began.elapsed().as_secs_f64());
        Ok(Passed { wall, cpu, others: (taken - own).max(0.0) })
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // It may have passed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of all children that were waited for, and of theirs.
fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage")?;
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_secs(value.tv_sec().unsigned_abs())
            + Duration::from_micros(value.tv_usec().unsigned_abs())
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

fn wall_time(text: &str) -> Option<Duration> {
    let seconds = text.lines().find_map(|line| line.strip_prefix("Time:"))?;
    Duration::try_from_secs_f64(seconds.trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_from_what_hackbench_prints() {
        let text = "Running in process mode with 2 groups\nTime: 3.584\n";
        assert_eq!(wall_time(text), Some(Duration::from_millis(3584)));
        assert_eq!(wall_time("Time: -1\n"), None);
        assert_eq!(wall_time("sender: fork (error: Resource)\n"), None);
    }
}
