//! What the agent itself uses.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::time::{ClockId, clock_gettime};

use crate::roots::Roots;

/// The agent's own use of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own {
    /// CPU time of all its threads since it started, seconds.
    pub cpu_seconds: f64,
    /// Resident memory, bytes; 0 where it cannot be read.
    pub rss: u64,
}

/// Reads the agent's own use: one clock read and one `pread` of a file that stays open.
#[derive(Debug)]
pub struct OwnReader {
    path: PathBuf,
    statm: Option<File>,
    page: u64,
}

impl OwnReader {
    /// A reader of the calling process below `roots.proc`. It must not be used across `fork`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        let path = roots.proc.join("self/statm");
        let statm = File::open(&path).ok();
        Self { path, statm, page: page_size() }
    }

    /// What the process uses now.
    #[must_use]
    pub fn read(&mut self) -> Own {
        Own { cpu_seconds: cpu_seconds(), rss: self.rss().unwrap_or(0) }
    }

    fn rss(&mut self) -> io::Result<u64> {
        if self.statm.is_none() {
            self.statm = Some(File::open(&self.path)?);
        }
        let Some(file) = &self.statm else {
            return Ok(0);
        };
        // Seven decimal numbers of at most 20 digits each.
        let mut buffer = [0_u8; 160];
        let length = file.read_at(&mut buffer, 0)?;
        Ok(resident_pages(&buffer[..length]).unwrap_or(0).saturating_mul(self.page))
    }
}

/// Second field of `statm`, in pages.
fn resident_pages(statm: &[u8]) -> Option<u64> {
    std::str::from_utf8(statm).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn cpu_seconds() -> f64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(0.0, |t| t.tv_sec() as f64 + t.tv_nsec() as f64 / 1e9)
}

fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u64::try_from(bytes).ok())
        .unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn time_burnt_here_is_counted() {
        let mut own = OwnReader::new(&Roots::default());
        let before = own.read();
        let until = Instant::now() + Duration::from_millis(200);
        let mut turns = 0_u64;
        while Instant::now() < until {
            turns = std::hint::black_box(turns + 1);
        }
        let used = own.read().cpu_seconds - before.cpu_seconds;
        assert!(used > 0.001, "{used} s after a loop of 200 ms");
    }

    #[test]
    fn memory_touched_here_is_counted() {
        let mut own = OwnReader::new(&Roots::default());
        let before = own.read().rss;
        let block = std::hint::black_box(vec![1_u8; 32 << 20]);
        let after = own.read().rss;
        assert!(after >= before + (16 << 20), "{before} → {after}");
        drop(block);
    }

    #[test]
    fn a_folder_without_the_file_gives_no_memory_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let roots = Roots { proc: folder.path().into(), ..Roots::default() };
        assert_eq!(OwnReader::new(&roots).read().rss, 0);
    }

    #[test]
    fn garbage_is_not_a_number_of_pages() {
        assert_eq!(resident_pages(b"100 25 3 4 5 6 7\n"), Some(25));
        assert_eq!(resident_pages(b"100"), None);
        assert_eq!(resident_pages(b"100 \xff"), None);
        assert_eq!(resident_pages(b""), None);
    }
}
