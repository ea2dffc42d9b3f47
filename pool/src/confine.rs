//! Where a worker's process runs and what it may do: prepared before the fork, entered after it.
//!
//! No new privileges are for every worker, see [`crate::process`]. Files are Landlock's, which the
//! kernel may lack; the network is closed by a seccomp filter that lets no socket be made but Unix
//! ones (nor `io_uring`, which makes sockets without a call). Memory is bounded as RLIMIT_DATA: what
//! the process allocates, not what it maps of files or of a GPU.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    path_beneath_rules,
};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Pid, Uid, User, geteuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::config::{CpuList, Placement, Sandbox};

/// The machine's NUMA nodes.
pub const NODES: &str = "/sys/devices/system/node";

/// Every confined worker may read these: programs, libraries, time zones, what the kernel says of
/// the machine.
const SYSTEM: [&str; 10] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/sbin",
    "/etc",
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/dev/urandom",
];

/// And write these.
const SINKS: [&str; 1] = ["/dev/null"];

/// Variables that libraries take their number of threads from.
const THREAD_VARIABLES: [&str; 6] = [
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
];

/// The newest version of Landlock that is asked for; older kernels give what they have.
const LANDLOCK: ABI = ABI::V5;

/// A process's confinement, ready to be entered.
pub struct Confinement {
    /// Environment that follows from the placement.
    pub env: BTreeMap<&'static str, String>,
    /// User and group to become.
    pub user: Option<(Uid, Gid)>,
    cpus: Option<CpuSet>,
    node: Option<u32>,
    data: Option<u64>,
    files: Option<OwnedFd>,
    calls: Option<BpfProgram>,
}

/// What a worker needs besides what its placement names.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// To read and execute: its program, its model.
    pub read: Vec<PathBuf>,
    /// To read and write: its temporary folder, the folder of its socket.
    pub write: Vec<PathBuf>,
}

/// Prepares the confinement of a worker, `nodes` being `/sys/devices/system/node`.
///
/// # Errors
/// Names the key that cannot be followed on this machine, and the remedy.
pub fn prepare(placement: &Placement, needs: &Needs, nodes: &Path) -> Result<Confinement, String> {
    let wanted = cpus(placement, nodes)?;
    let mut env = BTreeMap::new();
    let threads = placement.threads.or_else(|| wanted.as_ref().map(|cpus| cpus.0.len()));
    if let Some(threads) = threads {
        env.extend(THREAD_VARIABLES.map(|name| (name, threads.to_string())));
    }
    if let Some(gpus) = &placement.gpu {
        let list = gpus.join(",");
        // Not ROCR_VISIBLE_DEVICES as well: HIP counts anew among those that this leaves.
        env.extend(
            ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"].map(|name| (name, list.clone())),
        );
        // The numbers are those that `nvidia-smi` shows, not the fastest first.
        env.insert("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned());
    }
    let files = match &placement.sandbox {
        Sandbox::Off => None,
        Sandbox::On { read, write } => {
            let needs = Needs {
                read: needs.read.iter().chain(read).cloned().collect(),
                write: needs.write.iter().chain(write).cloned().collect(),
            };
            ruleset(&needs).map_err(|error| format!("`sandbox`: Landlock: {error}"))?
        }
    };
    Ok(Confinement {
        env,
        user: placement.user.as_deref().map(user).transpose()?,
        cpus: wanted.map(|cpus| set(&cpus)).transpose()?,
        node: placement.numa,
        data: placement.memory,
        files,
        calls: (!placement.network).then(no_network).transpose()?,
    })
}

impl Confinement {
    /// Enters it, for good. Between fork and exec: makes system calls only.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&self) -> io::Result<()> {
        if let Some(cpus) = &self.cpus {
            sched_setaffinity(Pid::from_raw(0), cpus)?;
        }
        if let Some(node) = self.node {
            prefer_node(node)?;
        }
        if let Some(bytes) = self.data {
            setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?;
        }
        if let Some(files) = &self.files {
            // SAFETY: the call takes a descriptor, which is open, and flags; it touches no memory.
            let result =
                unsafe { libc::syscall(libc::SYS_landlock_restrict_self, files.as_raw_fd(), 0) };
            Errno::result(result)?;
        }
        if let Some(program) = &self.calls {
            seccompiler::apply_filter(program).map_err(|_| io::Error::from(Errno::last()))?;
        }
        Ok(())
    }
}

/// What this kernel lacks for confinement, in words; nothing where it has all.
#[must_use]
pub fn missing() -> Option<&'static str> {
    match ruleset(&Needs::default()) {
        Ok(Some(_)) => None,
        _ => Some(
            "this kernel has no Landlock, so workers may read and write what their user may; boot \
             with `lsm=landlock,…` on Linux 5.13 or newer",
        ),
    }
}

/// The CPUs that `cpus` and `numa` leave, where either is given.
fn cpus(placement: &Placement, nodes: &Path) -> Result<Option<CpuList>, String> {
    let mut wanted = placement.cpus.clone();
    if let Some(node) = placement.numa {
        let file = nodes.join(format!("node{node}/cpulist"));
        let text = std::fs::read_to_string(&file).map_err(|error| {
            format!(
                "`numa`: {}: {error}; see `lscpu` for the nodes of this machine",
                file.display()
            )
        })?;
        let of_node = CpuList::parse(&text).map_err(|reason| format!("`numa`: {reason}"))?;
        let both = match &wanted {
            Some(cpus) => CpuList(cpus.0.intersection(&of_node.0).copied().collect()),
            None => of_node,
        };
        if both.0.is_empty() {
            return Err(format!(
                "`numa`: node {node} has none of the CPUs of `cpus`; change either"
            ));
        }
        wanted = Some(both);
    }
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let all = allowed_cpus()?;
    let left = CpuList(wanted.0.intersection(&all.0).copied().collect());
    if left.0.is_empty() {
        return Err(format!(
            "`cpus`: the pool may use none of {wanted}, only {all}; change `cpus`"
        ));
    }
    Ok(Some(left))
}

/// The CPUs that this process may use.
///
/// # Errors
/// The kernel's reason.
pub fn allowed_cpus() -> Result<CpuList, String> {
    let allowed = sched_getaffinity(Pid::from_raw(0))
        .map_err(|errno| format!("sched_getaffinity: {errno}"))?;
    let all = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    Ok(CpuList(all.collect()))
}

fn set(cpus: &CpuList) -> Result<CpuSet, String> {
    let mut set = CpuSet::new();
    for cpu in &cpus.0 {
        set.set(*cpu).map_err(|_| format!("`cpus`: {cpu} is beyond {}", CpuSet::count()))?;
    }
    Ok(set)
}

fn prefer_node(node: u32) -> io::Result<()> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let mut mask = [0 as libc::c_ulong; 1024 / BITS];
    if let Some(word) = mask.get_mut(node as usize / BITS) {
        *word |= 1 << (node as usize % BITS);
    }
    // SAFETY: the kernel reads as many bits of the mask as it is told, and the mask has them.
    let result = unsafe {
        libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_PREFERRED, mask.as_ptr(), 1024)
    };
    match Errno::result(result) {
        // A kernel without NUMA has one node, and its memory is there anyway.
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn ruleset(needs: &Needs) -> Result<Option<OwnedFd>, RulesetError> {
    let all = AccessFs::from_all(LANDLOCK);
    let read = AccessFs::from_read(LANDLOCK);
    let paths = |own: &[PathBuf], common: &[&str]| -> Vec<PathBuf> {
        own.iter().cloned().chain(common.iter().map(PathBuf::from)).collect()
    };
    let created = Ruleset::default()
        .handle_access(all)?
        .create()?
        // Paths that are not there are left out.
        .add_rules(path_beneath_rules(paths(&needs.read, &SYSTEM), read))?
        .add_rules(path_beneath_rules(paths(&needs.write, &SINKS), all))?;
    Ok(created.into())
}

fn no_network() -> Result<BpfProgram, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("`network`: seccomp: {error}");
    let unix = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Ne,
        u64::from(libc::AF_UNIX.unsigned_abs()),
    );
    let foreign = SeccompRule::new(vec![unix.map_err(|error| wrong(&error))?]);
    let rules = BTreeMap::from([
        (libc::SYS_socket, vec![foreign.map_err(|error| wrong(&error))?]),
        (libc::SYS_io_uring_setup, Vec::new()),
    ]);
    let arch = std::env::consts::ARCH.try_into().map_err(|error| wrong(&error))?;
    let refused = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| wrong(&error))
}

fn user(name: &str) -> Result<(Uid, Gid), String> {
    let found = User::from_name(name)
        .ok()
        .flatten()
        .ok_or_else(|| format!("`user`: no user {name}; make it with `useradd --system {name}`"))?;
    if geteuid() == found.uid {
        return Ok((found.uid, found.gid));
    }
    if !geteuid().is_root() {
        return Err(format!(
            "`user`: the pool runs as another user than {name} and is not root, so it may not \
             choose; leave `user` out, or start the pool as {name}"
        ));
    }
    Ok((found.uid, found.gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Output};

    /// Runs a shell script under the confinement.
    fn run(placement: &Placement, needs: &Needs, script: &str) -> Output {
        let confinement = prepare(placement, needs, Path::new("/sys/devices/system/node")).unwrap();
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).envs(&confinement.env);
        // SAFETY: `enter` makes system calls only.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_no_new_privs()?;
                confinement.enter()
            });
        }
        command.output().unwrap()
    }

    fn says(output: &Output) -> String {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[test]
    fn a_confined_worker_writes_nowhere_but_where_it_may() {
        if let Some(reason) = missing() {
            eprintln!("not tested: {reason}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (folder.path().join("own"), folder.path().join("other"));
        for path in [&own, &other] {
            fs::create_dir(path).unwrap();
        }
        fs::write(other.join("secret"), "x").unwrap();
        let needs = Needs { write: vec![own.clone()], ..Needs::default() };
        let script = format!(
            "echo a > {0}/a && cat {0}/a; cat {1}/secret; echo b > {1}/b; echo done",
            own.display(),
            other.display()
        );
        let output = run(&Placement::of(true), &needs, &script);
        assert_eq!(says(&output), "a\ndone", "{output:?}");
        assert!(!other.join("b").exists());
        let output = run(&Placement::of(false), &Needs::default(), &script);
        assert_eq!(says(&output), "a\nxdone", "an external command is not confined: {output:?}");
    }

    #[test]
    fn without_the_network_only_unix_sockets_are_made() {
        let script = "exec /usr/bin/env bash -c 'exec 3<>/dev/tcp/127.0.0.1/9 || true' 2>&1";
        let closed = Placement { network: false, ..Placement::of(false) };
        let closed = says(&run(&closed, &Needs::default(), script));
        assert!(closed.contains("Permission denied"), "{closed}");
        let open = says(&run(&Placement::of(false), &Needs::default(), script));
        assert!(!open.contains("Permission denied"), "{open}");
    }

    #[test]
    fn cpus_threads_memory_and_gpus_are_as_declared() {
        let placement = Placement {
            cpus: Some(CpuList([0].into())),
            gpu: Some(vec!["1".into(), "3".into()]),
            memory: Some(64 << 20),
            ..Placement::of(false)
        };
        let script = "nproc; echo $OMP_NUM_THREADS $RAYON_NUM_THREADS $CUDA_VISIBLE_DEVICES; \
                      ulimit -d";
        let output = run(&placement, &Needs::default(), script);
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        if allowed.is_set(0).unwrap() {
            assert_eq!(says(&output), "1\n1 1 1,3\n65536", "{output:?}");
        }
        let more = Placement { threads: Some(3), ..placement };
        let output = run(&more, &Needs::default(), "echo $OMP_NUM_THREADS");
        assert_eq!(says(&output), "3");
    }

    #[test]
    fn what_this_machine_does_not_have_is_named() {
        let refused = |placement: &Placement, nodes: &Path| {
            prepare(placement, &Needs::default(), nodes).err().unwrap()
        };
        let nodes = tempfile::tempdir().unwrap();
        let far = Placement { cpus: Some(CpuList([1023].into())), ..Placement::of(false) };
        assert!(refused(&far, nodes.path()).starts_with("`cpus`: the pool may use none of 1023"));
        let node = Placement { numa: Some(7), ..Placement::of(false) };
        assert!(refused(&node, nodes.path()).contains("node7/cpulist: No such file"));
        fs::create_dir(nodes.path().join("node7")).unwrap();
        fs::write(nodes.path().join("node7/cpulist"), "4-5\n").unwrap();
        let neither = Placement { cpus: Some(CpuList([0].into())), ..node };
        assert!(refused(&neither, nodes.path()).contains("node 7 has none of the CPUs"));
        let nobody = Placement { user: Some("no-such-user".into()), ..Placement::of(false) };
        assert!(refused(&nobody, nodes.path()).contains("useradd --system no-such-user"));
    }
}
