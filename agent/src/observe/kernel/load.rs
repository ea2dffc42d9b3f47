//! From the embedded object to attached programs.

use std::fs;
use std::io;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, ProgramError, RawTracePoint};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use downbeat_abi::{CLASS_SLOTS, GATE_WORD_BITS, NO_JOB, global, map, wait_parts};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use super::btf_file::BtfFile;
use super::layout::{Layout, layout};
use super::threads::TableSize;
use super::{Limit, ProbeError, ProbeOptions};
use crate::observe::btf::KernelTypes;
use crate::roots::Roots;

/// The compiled programs; `cargo xtask build-ebpf` makes them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../ebpf/object/downbeat.bpf.o"
));

/// aya-log's ring.
pub(super) const LOG_RING: &str = "AYA_LOGS";

/// What the log's ring shrinks to while nothing is logged: the least that the kernel takes.
const UNUSED_RING_BYTES: u32 = 4096;

/// The largest `pid_max` that a kernel allows; taken where the host's cannot be read.
const PID_MAX_LIMIT: u32 = 4 * 1024 * 1024;

/// Inode of the first pid namespace (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A kernel program.
pub(super) struct Program {
    pub(super) name: &'static str,
    /// What it is attached to.
    tracepoint: &'static str,
    /// Its twin for kernels that do not tell the types of a tracepoint's arguments.
    raw: &'static str,
    /// Arguments that it reads.
    arguments: usize,
    /// What is lost without it, where the others are of use without it.
    optional: Option<&'static str>,
    /// Whether its link is kept apart, to be pinned.
    apart: bool,
}

macro_rules! program {
    ($name:literal, $arguments:literal, $optional:expr) => {
        Program {
            name: $name,
            tracepoint: $name,
            raw: concat!("raw_", $name),
            arguments: $arguments,
            optional: $optional,
            apart: false,
        }
    };
    ($name:literal at $tracepoint:literal, $arguments:literal, $optional:expr) => {
        Program { tracepoint: $tracepoint, apart: true, ..program!($name, $arguments, $optional) }
    };
}

const NO_RENAMES: Option<&str> =
    Some("threads that change their name keep their class until the next look at /proc");
const NO_MOVES: Option<&str> =
    Some("waits of threads that moved to another CPU meanwhile are blamed on the last one");
const NO_INTERRUPTS: Option<&str> =
    Some("time of interrupts is blamed on whoever they interrupted, and devices release no jobs");
const NO_TIMERS: Option<&str> = Some("timers release no jobs of their own process");
const NO_LINEAGE: Option<&str> =
    Some("children of managed processes are known by their parents alone");
const NO_RECLAIM: Option<&str> = Some("misses are not put down to memory reclaim");

/// All programs of the object, in the order in which they are attached.
pub(super) const PROGRAMS: [Program; 20] = [
    program!("sched_waking", 1, None),
    program!("sched_wakeup_new", 1, None),
    program!("sched_switch", 3, None),
    program!("sched_process_exec", 2, None),
    program!("sched_process_fork", 2, None),
    program!("sched_process_exit", 1, None),
    program!("lineage_fork" at "sched_process_fork", 2, NO_LINEAGE),
    program!("lineage_exit" at "sched_process_exit", 1, NO_LINEAGE),
    program!("task_rename", 2, NO_RENAMES),
    program!("sched_migrate_task", 2, NO_MOVES),
    program!("irq_handler_entry", 1, NO_INTERRUPTS),
    program!("irq_handler_exit", 1, NO_INTERRUPTS),
    program!("softirq_entry", 1, NO_INTERRUPTS),
    program!("softirq_exit", 1, NO_INTERRUPTS),
    program!("hrtimer_expire_entry", 2, NO_TIMERS),
    program!("hrtimer_expire_exit", 1, NO_TIMERS),
    program!("mm_vmscan_direct_reclaim_begin", 0, NO_RECLAIM),
    program!("mm_vmscan_direct_reclaim_end", 0, NO_RECLAIM),
    program!("mm_vmscan_memcg_reclaim_begin", 0, NO_RECLAIM),
    program!("mm_vmscan_memcg_reclaim_end", 0, NO_RECLAIM),
];

/// Programs attached, maps created.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    /// Words of the gate.
    pub(super) gate_words: u32,
    /// Records of threads.
    pub(super) threads: TableSize,
    /// CPUs that the kernel may ever have.
    pub(super) cpus: u32,
    /// Threads whose jobs can be followed.
    pub(super) places: u32,
    /// Names of the programs that run, as in the object.
    pub(super) running: Vec<&'static str>,
    /// Links of the programs that may outlive the agent, by their names.
    pub(super) apart: Vec<(&'static str, FdLink)>,
    pub(super) limits: Vec<Limit>,
}

/// What one attempt to load needs.
struct Attempt<'a> {
    types: &'a KernelTypes<'a>,
    /// For tp_btf; absent where raw tracepoints are used.
    btf: Option<&'a Btf>,
    layout: &'a Layout,
    gate_words: u32,
    cpus: u32,
    options: &'a ProbeOptions,
    roots: &'a Roots,
}

/// Parts of the programs that a verifier may refuse while it takes the rest.
#[derive(Clone, Copy)]
struct Parts {
    blame: bool,
    jobs: bool,
}

impl Parts {
    /// Fewer parts, and what is lost with those left out; nothing where there is nothing to leave
    /// out.
    fn fewer(self) -> Option<(Self, &'static str)> {
        if self.blame {
            let lost = "no blame: whom threads wait for stays unknown";
            Some((Self { blame: false, ..self }, lost))
        } else if self.jobs {
            let lost = "no jobs: releases, responses and misses stay unknown";
            Some((Self { jobs: false, ..self }, lost))
        } else {
            None
        }
    }
}

pub(super) fn load(roots: &Roots, options: &ProbeOptions) -> Result<Loaded, ProbeError> {
    check_namespace(&roots.proc)?;
    let BtfFile { path, bytes, is_own } =
        BtfFile::find(options.btf.as_deref(), roots, Path::new("/"))?;
    let types = KernelTypes::parse(&bytes)
        .map_err(|source| ProbeError::Btf { path: path.clone(), source })?;
    let layout = layout(&types).map_err(|source| ProbeError::Btf { path: path.clone(), source })?;
    let btf = if is_own {
        let btf = Btf::parse(&bytes, Endianness::default());
        Some(btf.map_err(|error| ProbeError::failed("reading the kernel's BTF", &error))?)
    } else {
        None
    };
    let attempt = Attempt {
        types: &types,
        btf: btf.as_ref(),
        layout: &layout,
        gate_words: pid_max(&roots.proc).div_ceil(GATE_WORD_BITS),
        cpus: possible_cpus(&roots.sys),
        options,
        roots,
    };
    let _signals_wait = SignalsWait::begin()?;
    let mut lost = Vec::new();
    let mut parts = Parts { blame: options.blame && options.jobs, jobs: options.jobs };
    loop {
        match (attempt.load(parts), parts.fewer()) {
            (Err(error @ ProbeError::Verifier { .. }), Some((fewer, feature))) => {
                lost.push(Limit { feature: feature.to_owned(), reason: error.to_string() });
                parts = fewer;
            }
            (Ok(mut loaded), _) => {
                loaded.limits.extend(lost);
                return Ok(loaded);
            }
            (Err(error), _) => return Err(error),
        }
    }
}

impl Attempt<'_> {
    fn load(&self, parts: Parts) -> Result<Loaded, ProbeError> {
        let mut ebpf = self.create(parts)?;
        let mut running = Vec::with_capacity(PROGRAMS.len());
        let mut apart = Vec::new();
        let mut limits: Vec<Limit> = self.layout.limits.clone();
        for program in &PROGRAMS {
            let name = if self.btf.is_some() { program.name } else { program.raw };
            let started = check_tracepoint(self.types, program).and_then(|()| {
                self.start(&mut ebpf, program)
                    .map_err(|error| ProbeError::of_program(program.name, &error, self.roots))
            });
            match (started, program.optional) {
                (Ok(link), _) => {
                    running.push(name);
                    apart.extend(link.map(|link| (program.name, link)));
                }
                (Err(error), Some(lost)) => {
                    limits.push(Limit { feature: lost.to_owned(), reason: error.to_string() });
                }
                (Err(error), None) => return Err(error),
            }
        }
        // One line a feature, however many fields and programs it is made of.
        limits.dedup_by(|later, first| later.feature == first.feature);
        let places = if parts.jobs { self.options.max_jobs.min(NO_JOB) } else { 0 };
        let (gate_words, cpus) = (self.gate_words, self.cpus);
        let threads = TableSize::of(self.options.max_threads);
        Ok(Loaded { ebpf, gate_words, threads, cpus, places, running, apart, limits })
    }

    fn create(&self, parts: Parts) -> Result<Ebpf, ProbeError> {
        let ProbeOptions { log, ring_bytes, max_threads, max_jobs, .. } = self.options;
        // Levels are numbered alike on both sides: 1 is error, 5 is trace, 0 is nothing at all.
        let log_level: u8 = log.map_or(0, |level| level as u8);
        let ring_wake_bytes = ring_bytes / 4;
        let threads = TableSize::of(*max_threads);
        let (shift, last) = (threads.shift(), threads.last());
        let wait_parts = wait_parts(self.cpus);
        let (last_part, waits_shared) = (wait_parts - 1, u32::from(wait_parts < self.cpus));
        let mut loader = EbpfLoader::new();
        let blame: u32 = parts.blame.into();
        loader
            .btf(self.btf)
            .override_global(global::BLAME_ON, &blame, true)
            .override_global(global::JOBS_ON, if parts.jobs { &1_u32 } else { &0 }, true)
            .override_global(global::THREAD_SHIFT, &shift, true)
            .override_global(global::LAST_THREAD, &last, true)
            .override_global(global::LAST_WAIT_PART, &last_part, true)
            .override_global(global::WAIT_PARTS_SHARED, &waits_shared, true)
            .override_global(global::RING_WAKE_BYTES, &ring_wake_bytes, true)
            .override_global(aya_log::LEVEL, &log_level, true)
            .map_max_entries(map::GATE, self.gate_words)
            .map_max_entries(map::THREADS, threads.records)
            .map_max_entries(map::WAITS, CLASS_SLOTS * wait_parts)
            .map_max_entries(map::JOBS, (*max_jobs).min(NO_JOB))
            .map_max_entries(map::CPUS, self.cpus)
            .map_max_entries(map::EVENTS, *ring_bytes);
        for (name, value) in &self.layout.globals {
            loader.override_global(name, value, true);
        }
        if log.is_none() {
            loader.map_max_entries(LOG_RING, UNUSED_RING_BYTES);
        }
        loader.load(OBJECT).map_err(|error| ProbeError::of_object(&error))
    }

    /// Loads and attaches one program; its link where that is kept apart.
    fn start(&self, ebpf: &mut Ebpf, program: &Program) -> Result<Option<FdLink>, ProgramError> {
        let found = |ebpf: Option<_>| ebpf.ok_or(ProgramError::UnexpectedProgramType);
        match self.btf {
            Some(btf) => {
                let typed: &mut BtfTracePoint =
                    found(ebpf.program_mut(program.name))?.try_into()?;
                again_after_signals(|| typed.load(program.tracepoint, btf))?;
                let link = typed.attach()?;
                Ok(if program.apart { Some(typed.take_link(link)?.into()) } else { None })
            }
            None => {
                let raw: &mut RawTracePoint = found(ebpf.program_mut(program.raw))?.try_into()?;
                again_after_signals(|| raw.load())?;
                let link = raw.attach(program.tracepoint)?;
                Ok(if program.apart { Some(raw.take_link(link)?.into()) } else { None })
            }
        }
    }
}

/// Signals of this thread that wait until this is dropped. The verifier stops (`EAGAIN`) where one is
/// pending, and a child's end is one for any thread of the process that does not block it: loads beside
/// a hundred such ends failed five times in a row.
struct SignalsWait(SigSet);

impl SignalsWait {
    /// All but those by which somebody ends the agent: also while it loads.
    fn begin() -> Result<Self, ProbeError> {
        let mut waiting = SigSet::all();
        for end in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
            waiting.remove(end);
        }
        let before = waiting.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        before.map(Self).map_err(|error| ProbeError::failed("pthread_sigmask", &error))
    }
}

impl Drop for SignalsWait {
    fn drop(&mut self) {
        // Fails for a wrong argument alone.
        let _ = self.0.thread_set_mask();
    }
}

/// Loads a program, again where a signal ended the verifier's work (`EAGAIN`).
fn again_after_signals(
    mut load: impl FnMut() -> Result<(), ProgramError>,
) -> Result<(), ProgramError> {
    const TRIES: usize = 5;
    for _ in 1..TRIES {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
    load()
}

fn check_tracepoint(types: &KernelTypes<'_>, program: &Program) -> Result<(), ProbeError> {
    let found = match types.tracepoint_arguments(program.tracepoint) {
        None => "missing".to_owned(),
        Some(arguments) if arguments < program.arguments => {
            format!("there with {arguments} of {} arguments", program.arguments)
        }
        Some(_) => return Ok(()),
    };
    Err(ProbeError::Tracepoint { tracepoint: program.tracepoint, found })
}

/// Host ids are what the kernel hands out; nothing is assumed where the file cannot be read.
fn check_namespace(proc: &Path) -> Result<(), ProbeError> {
    if is_first_namespace(proc) {
        return Ok(());
    }
    Err(ProbeError::PidNamespace { path: proc.join("self/ns/pid") })
}

/// Whether ids here are the kernel's own; assumed where the file cannot be read.
pub(super) fn is_first_namespace(proc: &Path) -> bool {
    let namespace = fs::read_link(proc.join("self/ns/pid"));
    namespace.map_or(true, |namespace| namespace == Path::new(FIRST_PID_NAMESPACE))
}

/// One more than the highest number that a CPU may get, online or not.
fn possible_cpus(sys: &Path) -> u32 {
    let text = fs::read_to_string(sys.join("devices/system/cpu/possible")).unwrap_or_default();
    let highest = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<u32>().ok());
    // As many as a kernel of a distribution takes.
    highest.map_or(8_192, |highest| highest.saturating_add(1).min(8_192))
}

fn pid_max(proc: &Path) -> u32 {
    fs::read_to_string(proc.join("sys/kernel/pid_max"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(PID_MAX_LIMIT)
        .min(PID_MAX_LIMIT)
}
