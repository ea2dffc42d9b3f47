//! Why the kernel programs do not run, each with what to do about it, in one line.

use std::io;
use std::path::{Path, PathBuf};

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

use crate::observe::btf::BtfError;
use crate::roots::Roots;

/// Lines of the verifier's log that an error quotes: its last ones name the reason.
const LOG_LINES: usize = 6;

/// Why the kernel programs do not run.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Not allowed to.
    #[error(
        "{what}: {source}. Loading kernel programs needs root, or the capabilities CAP_BPF and \
         CAP_PERFMON (setcap, or AmbientCapabilities= in the unit)"
    )]
    Permission {
        /// What was refused.
        what: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel protects its memory from root itself.
    #[error(
        "{path} says confidentiality: a kernel locked down so lets nobody read its memory. Boot \
         with lockdown=integrity, or without lockdown="
    )]
    Lockdown {
        /// The file that says so.
        path: PathBuf,
    },
    /// The kernel does not describe its types.
    #[error(
        "{path}: {source}. The kernel must be built with CONFIG_DEBUG_INFO_BTF=y, as those of \
         Debian 11, Ubuntu 20.10, Fedora 31 and later are; for one that is not, give its types by \
         --btf FILE (raw BTF, or a vmlinux with a section .BTF, as `pahole -J` makes it)"
    )]
    NoBtf {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// It does, in a way that this version does not understand.
    #[error(
        "{path}: {source}. This kernel is newer or older than downbeat knows: report its version"
    )]
    Btf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BtfError,
    },
    /// A tracepoint is not there, or not with the arguments that the programs read.
    #[error(
        "the kernel's tracepoint {tracepoint} is {found}. Kernels from 5.12 on have it: update, \
         or report this kernel's version"
    )]
    Tracepoint {
        /// Tracepoint.
        tracepoint: &'static str,
        /// `missing`, or how it differs.
        found: String,
    },
    /// The kernel's verifier does not accept a program.
    #[error(
        "the kernel refused the program {program}: {source}: {log}. Report this line and the kernel's version"
    )]
    Verifier {
        /// Program.
        program: &'static str,
        /// The system call's error.
        source: io::Error,
        /// The end of the verifier's log, lines joined by `|`.
        log: String,
    },
    /// The agent sees other ids than the kernel.
    #[error(
        "{path}: the agent runs in a pid namespace of its own, where the kernel's thread ids mean \
         nothing. Run it in the host's (hostPID: true, --pid=host)"
    )]
    PidNamespace {
        /// The file that says so.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{what}: {reason}")]
    Failed {
        /// What was being done.
        what: String,
        /// Why it failed.
        reason: String,
    },
}

impl ProbeError {
    /// An error of the object or its maps.
    pub(super) fn of_object(error: &EbpfError) -> Self {
        if let EbpfError::MapError(MapError::CreateError { name, io_error }) = error
            && is_denied(io_error)
        {
            let what = format!("creating the BPF map {name}");
            return Self::Permission { what, source: same(io_error) };
        }
        Self::failed("loading the kernel programs", error)
    }

    /// An error of one program.
    pub(super) fn of_program(program: &'static str, error: &ProgramError, roots: &Roots) -> Self {
        if let Some(path) = lockdown(roots) {
            return Self::Lockdown { path };
        }
        match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = last_lines(&verifier_log.to_string());
                if is_denied(io_error) && log.is_empty() {
                    let what = format!("loading the BPF program {program}");
                    return Self::Permission { what, source: same(io_error) };
                }
                Self::Verifier { program, source: same(io_error), log }
            }
            ProgramError::SyscallError(call) if is_denied(&call.io_error) => Self::Permission {
                what: format!("{} of the BPF program {program}", call.call),
                source: same(&call.io_error),
            },
            other => Self::failed(&format!("the BPF program {program}"), other),
        }
    }

    /// Any error, with everything that it says of its causes.
    pub(super) fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| error.source());
        let mut reason = Vec::new();
        for cause in causes.map(ToString::to_string) {
            // Many errors repeat their cause.
            if !reason.iter().any(|said: &String| said.contains(&cause)) {
                reason.push(cause);
            }
        }
        Self::Failed { what: what.to_owned(), reason: one_line(&reason.join(": ")) }
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// `io::Error` cannot be cloned; the kernel's can be made again from their number.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// The file that says that the kernel is locked down, if it does and it matters.
fn lockdown(roots: &Roots) -> Option<PathBuf> {
    let path = roots.sys.join(Path::new("kernel/security/lockdown"));
    let text = std::fs::read_to_string(&path).ok()?;
    text.contains("[confidentiality]").then_some(path)
}

fn last_lines(log: &str) -> String {
    // The very last lines are statistics, the same for every program.
    let said = |line: &&str| {
        !line.is_empty()
            && !["processed ", "verification time", "stack depth"]
                .iter()
                .any(|s| line.starts_with(s))
    };
    let lines: Vec<&str> = log.lines().map(str::trim).filter(said).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_verifier_log_is_quoted_and_in_one_line() {
        let mut log: String = (0..100).map(|i| format!("{i}: r1 = r1\n")).collect();
        log += "invalid access to map value\nprocessed 9 insns (limit 1000000)\nstack depth 8\n";
        let quoted = last_lines(&log);
        assert!(quoted.ends_with("99: r1 = r1 | invalid access to map value"), "{quoted}");
        assert!(!quoted.contains('\n') && !quoted.contains("processed"));
    }

    #[test]
    fn lockdown_matters_only_where_memory_may_not_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let roots = Roots { sys: folder.path().into(), ..Roots::default() };
        let path = folder.path().join("kernel/security/lockdown");
        assert_eq!(lockdown(&roots), None);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "none [integrity] confidentiality\n").unwrap();
        assert_eq!(lockdown(&roots), None);
        std::fs::write(&path, "none integrity [confidentiality]\n").unwrap();
        assert_eq!(lockdown(&roots), Some(path));
    }

    #[test]
    fn a_refusal_names_the_capabilities() {
        let source = || io::Error::from_raw_os_error(libc::EPERM);
        let refused =
            EbpfError::MapError(MapError::CreateError { name: "GATE".into(), io_error: source() });
        let text = ProbeError::of_object(&refused).to_string();
        assert!(
            text.contains("GATE") && text.contains("CAP_BPF") && text.contains("root"),
            "{text}"
        );
    }
}
