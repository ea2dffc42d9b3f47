//! Puts in order what the demo leaves when it is killed and cannot do so itself.
//!
//! A process of its own, in a session of its own, that waits for the end of a pipe whose other
//! end only the demo holds. After an ordinary end it finds nothing to do.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use downbeat_tests::processes::sweep;

/// How long the agent may take to put everything back.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Options of the hidden `cargo xtask janitor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the programs to end
    #[arg(long)]
    programs: PathBuf,
    /// Folders to remove
    #[arg(long)]
    remove: Vec<PathBuf>,
}

/// Waits for the demo's end and cleans up.
pub fn run(args: &Args) -> Result<()> {
    let mut nothing = Vec::new();
    // Returns when the demo ends, however it ends.
    let _ = std::io::stdin().read_to_end(&mut nothing);
    sweep(&args.programs, "downbeatd", PATIENCE);
    let mut removed = Ok(());
    for folder in args.remove.iter().filter(|folder| folder.exists()) {
        let one = fs::remove_dir_all(folder).with_context(|| folder.display().to_string());
        removed = removed.and(one);
    }
    removed
}

/// A waiting janitor.
#[derive(Debug)]
pub struct Janitor {
    child: Child,
}

impl Janitor {
    /// Starts one for `programs` and the folders to `remove`.
    pub fn start(programs: &Path, remove: &[&Path]) -> Result<Self> {
        let own = std::env::current_exe().context("xtask's own path")?;
        let mut command = Command::new(own);
        command.arg("janitor").arg("--programs").arg(programs);
        for folder in remove {
            command.arg("--remove").arg(folder);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // SAFETY: the closure runs between fork and exec and makes one system call, which is safe
        // there. In a session of its own, no terminal's signal reaches it.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
        }
        let child = command.spawn().context("the janitor: starting it")?;
        Ok(Self { child })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // Closes the pipe.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
