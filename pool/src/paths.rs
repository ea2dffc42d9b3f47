//! The pool's files in the run directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use downbeat_api::pool::{CONTROL_SOCKET, POOL_DIR};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::net::UnixListener;

/// A socket's path may have so many bytes; see unix(7).
const MAX_SOCKET_PATH: usize = 107;

/// The REST server's socket in the pool's folder.
pub const REST_SOCKET: &str = "rest.sock";

/// The gRPC server's socket in the pool's folder.
pub const GRPC_SOCKET: &str = "grpc.sock";

/// The Wyoming server's socket in the pool's folder.
pub const WYOMING_SOCKET: &str = "wyoming.sock";

/// The pool's folder.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The run directory, absolute and without links.
    pub run_dir: PathBuf,
    folder: PathBuf,
}

impl Paths {
    /// Makes the folder where the agent has not done so.
    ///
    /// # Errors
    /// Names the folder and the remedy.
    pub fn create(run_dir: &Path) -> anyhow::Result<Self> {
        let folder = run_dir.join(POOL_DIR);
        fs::create_dir_all(&folder).with_context(|| {
            format!(
                "{}: cannot make the pool's folder; let the agent start the pool, or name a folder \
                 of your own with --run-dir",
                folder.display()
            )
        })?;
        let run_dir = fs::canonicalize(run_dir)
            .with_context(|| format!("{}: cannot be resolved", run_dir.display()))?;
        let folder = run_dir.join(POOL_DIR);
        Ok(Self { run_dir, folder })
    }

    /// Without making or resolving anything.
    #[cfg(test)]
    pub fn of(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned(), folder: run_dir.join(POOL_DIR) }
    }

    /// The socket that worker `name` serves.
    ///
    /// # Errors
    /// When the path is too long for a socket.
    pub fn socket(&self, name: &str) -> Result<PathBuf, String> {
        fits(self.folder.join(format!("{name}.sock")))
    }

    /// The socket on which worker `name` reports.
    ///
    /// # Errors
    /// When the path is too long for a socket.
    pub fn notify(&self, name: &str) -> Result<PathBuf, String> {
        fits(self.folder.join(format!("{name}.notify")))
    }

    /// The folder that the sockets lie in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The temporary folder of worker `name`.
    #[must_use]
    pub fn temporary(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.tmp"))
    }

    /// The control socket's path.
    ///
    /// # Errors
    /// When the path is too long for a socket.
    pub fn control(&self) -> Result<PathBuf, String> {
        fits(self.folder.join(CONTROL_SOCKET))
    }

    /// A server's socket.
    ///
    /// # Errors
    /// When the path is too long for a socket.
    pub fn server(&self, file: &str) -> Result<PathBuf, String> {
        fits(self.folder.join(file))
    }

    /// Removes the pool's own sockets, at its end.
    pub fn remove_sockets(&self) {
        for file in [CONTROL_SOCKET, REST_SOCKET, GRPC_SOCKET, WYOMING_SOCKET] {
            let _ = fs::remove_file(self.folder.join(file));
        }
    }

    /// Listens on the control socket. One that a killed pool left there is replaced; a living
    /// pool is an error.
    ///
    /// # Errors
    /// Names the socket, and the process that holds it.
    pub fn listen(&self) -> anyhow::Result<UnixListener> {
        let path = self.control().map_err(anyhow::Error::msg)?;
        let shown = path.display();
        if let Ok(other) = UnixStream::connect(&path) {
            let pid = getsockopt(&other, PeerCredentials).map_or(0, |peer| peer.pid());
            bail!(
                "{shown}: another pool (pid {pid}) serves this run directory; stop it, or give \
                 this one its own with --run-dir"
            );
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| {
                    format!("{shown}: left by another pool, and cannot be removed; remove it")
                });
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).with_context(|| {
            format!(
                "{shown}: cannot make the control socket; the folder must belong to the pool's user"
            )
        })?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660))
            .with_context(|| format!("{shown}: chmod"))?;
        Ok(listener)
    }
}

fn fits(path: PathBuf) -> Result<PathBuf, String> {
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(format!(
            "{}: {length} bytes, and a socket's path may have {MAX_SOCKET_PATH}; choose a shorter \
             --run-dir or a shorter name",
            path.display()
        ));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(80));
        let paths = Paths::create(&deep).unwrap();
        let error = paths.socket(&"n".repeat(32)).unwrap_err();
        assert!(error.contains("a socket's path may have 107"), "{error}");
    }

    #[tokio::test]
    async fn a_dead_pools_socket_is_replaced_and_a_living_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::create(folder.path()).unwrap();
        let listener = paths.listen().unwrap();
        let error = paths.listen().unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(listener);
        paths.listen().unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let error = Paths::create(Path::new("/proc/nothing")).unwrap_err();
        assert!(error.to_string().starts_with("/proc/nothing/pool: cannot make"), "{error}");
    }
}
