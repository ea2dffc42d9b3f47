//! Classes: what a matched thread should have.

use std::time::Duration;

use crate::{
    CpuChoice, CpuLevers, Energy, Goal, GpuShare, IoLevers, Irqs, MemoryLevers, Origin, Sched,
    duration,
};

/// `[class.NAME]`, with what it inherits. Whatever is absent is not touched.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// NAME.
    pub name: String,
    /// The class whose keys it takes where it gives none of its own, by name.
    pub inherits: Option<String>,
    /// What its frames are.
    pub modality: Modality,
    /// How urgent its work is.
    pub tier: Tier,
    /// From a frame's release to the moment it is worthless.
    pub deadline: Option<Deadline>,
    /// CPUs that its threads may use.
    pub cpus: Option<CpuChoice>,
    /// Its CPUs become a cpuset partition: nobody else runs there. Only with `cpus`.
    pub partition: bool,
    /// Scheduling.
    pub sched: Sched,
    /// CPU time of its group.
    pub cpu: CpuLevers,
    /// Memory.
    pub memory: MemoryLevers,
    /// Disks.
    pub io: IoLevers,
    /// Its part of a GPU.
    pub gpu: GpuShare,
    /// What the governor holds.
    pub goal: Goal,
    /// How much later than asked the kernel may let a sleep end, 1 ns to 1 s.
    pub timer_slack: Option<Duration>,
    /// Its group is held frozen; only in the background.
    pub freeze: bool,
    /// Device interrupts. [`Irqs::KeepOff`] only with `cpus`.
    pub irqs: Irqs,
    /// The longest time that an idle CPU may take to wake, 0 to 10 ms (`/dev/cpu_dma_latency`,
    /// held while the class has threads).
    pub wakeup_latency: Option<Duration>,
    /// Energy preference of its CPUs (of all, without `cpus`).
    pub energy: Option<Energy>,
    /// Its processes are moved into a group of the agent's own where they have none that it may
    /// change.
    pub adopt: bool,
    /// Where it is defined.
    pub origin: Origin,
}

/// What the frames of a class are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Modality {
    /// Sound, spoken or not.
    Audio,
    /// Frames of a camera, a file or a screen.
    Video,
    /// Single pictures.
    Image,
    /// Tokens.
    Text,
    /// Other periodic input.
    Sensor,
    /// None of these.
    #[default]
    Other,
}

/// How urgent a class's work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// A late frame is a lost frame.
    Realtime,
    /// Someone waits for the answer.
    Interactive,
    /// Throughput only.
    Background,
}

/// `deadline = …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// `"auto"`: learned from the job probe.
    Auto,
    /// Given.
    After(Duration),
}

impl Class {
    /// A class that changes nothing, as `[class.NAME]` with a tier and `sched = "keep"` is read.
    #[must_use]
    pub fn keeping(name: &str, tier: Tier, origin: Origin) -> Self {
        Self {
            name: name.to_owned(),
            inherits: None,
            modality: Modality::default(),
            tier,
            deadline: None,
            cpus: None,
            partition: false,
            sched: Sched::Keep,
            cpu: CpuLevers::default(),
            memory: MemoryLevers::default(),
            io: IoLevers::default(),
            gpu: GpuShare::default(),
            goal: Goal::default(),
            timer_slack: None,
            freeze: false,
            irqs: Irqs::default(),
            wakeup_latency: None,
            energy: None,
            adopt: false,
            origin,
        }
    }
}

impl Class {
    /// The keys that it gives, and that a process has once for all its threads: they follow the
    /// class of its main thread.
    #[must_use]
    pub fn of_whole_processes(&self) -> Vec<&'static str> {
        let CpuLevers { weight, max, idle, burst, uclamp: _ } = &self.cpu;
        let MemoryLevers { min, low, high, max: most, oom } = &self.memory;
        let IoLevers { priority: _, weight: io_weight, max: io_max, latency } = &self.io;
        let given = [
            ("adopt", self.adopt),
            ("partition", self.partition),
            ("freeze", self.freeze),
            ("cpu.weight", weight.is_some()),
            ("cpu.max", max.is_some()),
            ("cpu.idle", idle.is_some()),
            ("cpu.burst", burst.is_some()),
            ("memory.min", min.is_some()),
            ("memory.low", low.is_some()),
            ("memory.high", high.is_some()),
            ("memory.max", most.is_some()),
            ("memory.oom", oom.is_some()),
            ("io.weight", io_weight.is_some()),
            ("io.max", !io_max.is_empty()),
            ("io.latency", latency.is_some()),
        ];
        given.into_iter().filter_map(|(key, is_given)| is_given.then_some(key)).collect()
    }
}

impl Modality {
    /// Every modality.
    pub const ALL: [Self; 6] =
        [Self::Audio, Self::Video, Self::Image, Self::Text, Self::Sensor, Self::Other];

    /// As written in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Image => "image",
            Self::Text => "text",
            Self::Sensor => "sensor",
            Self::Other => "other",
        }
    }
}

impl Tier {
    /// Every tier.
    pub const ALL: [Self; 3] = [Self::Realtime, Self::Interactive, Self::Background];

    /// As written in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::Interactive => "interactive",
            Self::Background => "background",
        }
    }
}

impl Deadline {
    /// For a person: `10 ms` or `auto`.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::After(duration) => duration::words(duration),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_in_words() {
        assert_eq!(Deadline::Auto.words(), "auto");
        assert_eq!(Deadline::After(Duration::from_millis(33)).words(), "33 ms");
    }
}
