//! From the embedded object to attached programs.

use std::fs;
use std::path::Path;

use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use downbeat_abi::{GATE_WORD_BITS, global, map};

use super::{Limit, ProbeError, ProbeOptions};
use crate::observe::btf::{BtfError, KernelTypes};
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

/// A kernel program, named for its tracepoint.
pub(super) struct Program {
    pub(super) name: &'static str,
    /// Arguments that it reads.
    arguments: usize,
    /// What is lost without it, where the others are of use without it.
    optional: Option<&'static str>,
}

/// All programs of the object.
pub(super) const PROGRAMS: [Program; 7] = [
    Program { name: "sched_wakeup", arguments: 1, optional: None },
    Program { name: "sched_wakeup_new", arguments: 1, optional: None },
    Program { name: "sched_switch", arguments: 3, optional: None },
    Program { name: "sched_process_exec", arguments: 2, optional: None },
    Program { name: "sched_process_fork", arguments: 2, optional: None },
    Program { name: "sched_process_exit", arguments: 1, optional: None },
    Program {
        name: "task_rename",
        arguments: 2,
        optional: Some(
            "threads that change their name keep their class until the next look at /proc",
        ),
    },
];

/// Programs attached, maps created.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    /// Words of the gate.
    pub(super) gate_words: u32,
    /// Names of the programs that run.
    pub(super) running: Vec<&'static str>,
    pub(super) limits: Vec<Limit>,
}

/// What the programs must know of this kernel's types.
struct Layout {
    pid: u32,
    tgid: u32,
    real_parent: u32,
    state: u32,
    switch_has_state: u32,
}

pub(super) fn load(roots: &Roots, options: &ProbeOptions) -> Result<Loaded, ProbeError> {
    check_namespace(&roots.proc)?;
    let path = roots.sys.join("kernel/btf/vmlinux");
    let bytes =
        fs::read(&path).map_err(|source| ProbeError::NoBtf { path: path.clone(), source })?;
    let types = KernelTypes::parse(&bytes)
        .map_err(|source| ProbeError::Btf { path: path.clone(), source })?;
    let layout = layout(&types).map_err(|source| ProbeError::Btf { path, source })?;
    let btf = Btf::parse(&bytes, Endianness::default())
        .map_err(|error| ProbeError::failed("reading the kernel's BTF", &error))?;

    let gate_words = pid_max(&roots.proc).div_ceil(GATE_WORD_BITS);
    let mut ebpf = create(&btf, &layout, gate_words, options)?;
    let mut running = Vec::with_capacity(PROGRAMS.len());
    let mut limits = Vec::new();
    for program in &PROGRAMS {
        let started = check_tracepoint(&types, program).and_then(|()| {
            start(&mut ebpf, program.name, &btf)
                .map_err(|error| ProbeError::of_program(program.name, &error, roots))
        });
        match (started, program.optional) {
            (Ok(()), _) => running.push(program.name),
            (Err(error), Some(lost)) => {
                limits.push(Limit { feature: lost.to_owned(), reason: error.to_string() });
            }
            (Err(error), None) => return Err(error),
        }
    }
    Ok(Loaded { ebpf, gate_words, running, limits })
}

fn create(
    btf: &Btf,
    layout: &Layout,
    gate_words: u32,
    options: &ProbeOptions,
) -> Result<Ebpf, ProbeError> {
    let Layout { pid, tgid, real_parent, state, switch_has_state } = layout;
    let ProbeOptions { log, ring_bytes, max_threads } = options;
    // Levels are numbered alike on both sides: 1 is error, 5 is trace, 0 is nothing at all.
    let log_level: u8 = log.map_or(0, |level| level as u8);
    let ring_wake_bytes = ring_bytes / 4;
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .override_global(global::TASK_PID, pid, true)
        .override_global(global::TASK_TGID, tgid, true)
        .override_global(global::TASK_REAL_PARENT, real_parent, true)
        .override_global(global::TASK_STATE, state, true)
        .override_global(global::SWITCH_HAS_STATE, switch_has_state, true)
        .override_global(global::RING_WAKE_BYTES, &ring_wake_bytes, true)
        .override_global(aya_log::LEVEL, &log_level, true)
        .map_max_entries(map::GATE, gate_words)
        .map_max_entries(map::THREADS, *max_threads)
        .map_max_entries(map::EVENTS, *ring_bytes);
    if log.is_none() {
        loader.map_max_entries(LOG_RING, UNUSED_RING_BYTES);
    }
    loader.load(OBJECT).map_err(|error| ProbeError::of_object(&error))
}

fn start(ebpf: &mut Ebpf, name: &str, btf: &Btf) -> Result<(), ProgramError> {
    let program = ebpf.program_mut(name).ok_or(ProgramError::UnexpectedProgramType)?;
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load(name, btf)?;
    program.attach()?;
    Ok(())
}

fn layout(types: &KernelTypes<'_>) -> Result<Layout, BtfError> {
    let task = |field| types.field_offset("task_struct", field);
    Ok(Layout {
        pid: task("pid")?,
        tgid: task("tgid")?,
        real_parent: task("real_parent")?,
        // Renamed in 5.14. The low half of the older, longer field is what counts.
        state: task("__state").or_else(|_| task("state"))?,
        switch_has_state: types.tracepoint_arguments("sched_switch").is_some_and(|n| n >= 4).into(),
    })
}

fn check_tracepoint(types: &KernelTypes<'_>, program: &Program) -> Result<(), ProbeError> {
    let found = match types.tracepoint_arguments(program.name) {
        None => "missing".to_owned(),
        Some(arguments) if arguments < program.arguments => {
            format!("there with {arguments} of {} arguments", program.arguments)
        }
        Some(_) => return Ok(()),
    };
    Err(ProbeError::Tracepoint { tracepoint: program.name, found })
}

/// Host ids are what the kernel hands out; nothing is assumed where the file cannot be read.
fn check_namespace(proc: &Path) -> Result<(), ProbeError> {
    let path = proc.join("self/ns/pid");
    match fs::read_link(&path) {
        Ok(namespace) if namespace != Path::new(FIRST_PID_NAMESPACE) => {
            Err(ProbeError::PidNamespace { path })
        }
        _ => Ok(()),
    }
}

fn pid_max(proc: &Path) -> u32 {
    fs::read_to_string(proc.join("sys/kernel/pid_max"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(PID_MAX_LIMIT)
        .min(PID_MAX_LIMIT)
}
