//! Control groups of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::processes::wait_until;

/// A control group; removed when dropped, so what runs in it must have ended or been killed by then
/// (declare it before its loads).
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// A new one below `root`: where a hierarchy is mounted.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn new(root: &Path, name: &str) -> Result<Self> {
        let path = root.join(name);
        fs::create_dir(&path).with_context(|| format!("{}: making it", path.display()))?;
        Ok(Self { path })
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process in, with all its threads.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn take_in(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Reads one of its files.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        fs::read_to_string(&path).with_context(|| format!("{}: reading it", path.display()))
    }

    /// Writes one of its files.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, text).with_context(|| format!("{}: writing {text}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut last = Ok(());
        // Those that were killed a moment ago are still leaving.
        wait_until(Duration::from_secs(5), || {
            last = fs::remove_dir(&self.path);
            last.is_ok()
        });
        if let Err(error) = last {
            eprintln!("{}: removing it: {error}", self.path.display());
        }
    }
}
