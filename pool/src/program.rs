//! Finding the program of a worker before it is started, so that a missing one is named.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::config::{Program, WorkerConfig};

/// The built-in workers' program.
pub const WORKER_PROGRAM: &str = "downbeat-worker";

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The file.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub arguments: Vec<OsString>,
}

/// The command line of a worker's instance `id`, the one in `slot`, that serves `socket`.
///
/// # Errors
/// Names the program or folder that is missing or cannot be run, and the remedy.
pub fn command_line(
    config: &WorkerConfig,
    id: &str,
    slot: usize,
    worker_bin: Option<&Path>,
    socket: &Path,
) -> Result<CommandLine, String> {
    let folder = config.dir.as_deref().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        return Err(format!(
            "`dir`: {} is not a folder; create it or change `dir` of [worker.{}]",
            folder.display(),
            config.name
        ));
    }
    match &config.program {
        Program::Denoise => Ok(CommandLine {
            program: built_in(worker_bin)?,
            arguments: vec![
                "denoise".into(),
                "--listen".into(),
                socket.into(),
                "--name".into(),
                id.into(),
            ],
        }),
        Program::Model(_) => Ok(CommandLine {
            program: built_in(worker_bin)?,
            // Who starts it says where its channel is.
            arguments: vec!["serve".into(), "--name".into(), id.into()],
        }),
        Program::Elsewhere => Err(format!("[worker.{}]: nothing is started for it", config.name)),
        Program::Command(words) => {
            let (program, arguments) = words
                .split_first()
                .ok_or_else(|| format!("[worker.{}]: `command` names no program", config.name))?;
            let path = config.env.get("PATH").map(OsString::from).or_else(|| env::var_os("PATH"));
            Ok(CommandLine {
                program: external(program, folder, path.as_deref())?,
                arguments: arguments.iter().map(|word| with_port(config, slot, word)).collect(),
            })
        }
    }
}

/// The port of the instance in `slot`; nothing where the worker has none, or no port is left.
#[must_use]
pub fn port(config: &WorkerConfig, slot: usize) -> Option<u16> {
    let first = config.adapter.as_ref()?.port()?;
    first.checked_add(u16::try_from(slot).ok()?)
}

fn with_port(config: &WorkerConfig, slot: usize, word: &str) -> OsString {
    match port(config, slot) {
        Some(port) => word.replace("{port}", &port.to_string()).into(),
        None => word.into(),
    }
}

fn built_in(worker_bin: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(given) = worker_bin {
        runnable(given)
            .map_err(|reason| format!("{}: {reason}; correct --worker-bin", given.display()))?;
        return Ok(given.into());
    }
    let beside = env::current_exe().ok().map(|own| own.with_file_name(WORKER_PROGRAM));
    if let Some(beside) = &beside
        && runnable(beside).is_ok()
    {
        return Ok(beside.clone());
    }
    in_path(OsStr::new(WORKER_PROGRAM), env::var_os("PATH").as_deref()).map_err(|_| {
        format!(
            "{WORKER_PROGRAM} is neither beside the pool's own program{} nor in PATH; install it \
             there, or name it with --worker-bin (from source: `cargo build -p {WORKER_PROGRAM}`)",
            beside.map(|path| format!(" ({})", path.display())).unwrap_or_default()
        )
    })
}

/// A name without a slash is looked up in PATH, anything else is taken from `folder`.
fn external(program: &str, folder: &Path, path: Option<&OsStr>) -> Result<PathBuf, String> {
    if !program.contains('/') {
        return in_path(OsStr::new(program), path);
    }
    let file = folder.join(program);
    runnable(&file).map_err(|reason| format!("{}: {reason}; correct `command`", file.display()))?;
    Ok(file)
}

fn in_path(program: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, String> {
    let path = path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
    env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|file| runnable(file).is_ok())
        .ok_or_else(|| {
            format!(
                "{}: not found in PATH ({}); install it{}, or write its whole path in `command`",
                program.display(),
                path.display(),
                packages(program)
                    .map(|it| format!(" (`apt-get install {it}`)"))
                    .unwrap_or_default()
            )
        })
}

/// What brings the programs of the shipped examples, by Debian's names.
fn packages(program: &OsStr) -> Option<&'static str> {
    match program.to_str()? {
        "espeak-ng" => Some("espeak-ng"),
        "ffmpeg" => Some("ffmpeg"),
        "pocketsphinx_continuous" => Some("pocketsphinx pocketsphinx-en-us"),
        "tesseract" => Some("tesseract-ocr"),
        _ => None,
    }
}

fn runnable(file: &Path) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => error.to_string(),
    })?;
    if !metadata.is_file() {
        return Err("is not a program but a folder or a device".into());
    }
    access(file, AccessFlags::X_OK)
        .map_err(|_| "may not be executed by the pool's user (`chmod +x`)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Adapter, Http};
    use std::os::unix::fs::PermissionsExt;

    fn config(words: &[&str], dir: Option<&Path>) -> WorkerConfig {
        let program = Program::Command(words.iter().map(ToString::to_string).collect());
        WorkerConfig { dir: dir.map(Into::into), ..WorkerConfig::new("w", program) }
    }

    fn found(config: &WorkerConfig) -> Result<PathBuf, String> {
        command_line(config, "w", 0, None, Path::new("/s")).map(|line| line.program)
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let error = found(&config(&["no-such-program", "-x"], None)).unwrap_err();
        assert!(error.starts_with("no-such-program: not found in PATH ("), "{error}");
        assert!(error.ends_with("install it, or write its whole path in `command`"), "{error}");
        let error = found(&config(&["/no/such"], None)).unwrap_err();
        assert_eq!(error, "/no/such: does not exist; correct `command`");
        let error = found(&config(&["/tmp"], None)).unwrap_err();
        assert!(error.starts_with("/tmp: is not a program"), "{error}");
    }

    #[test]
    fn a_program_that_may_not_be_run_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tool");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let worker = config(&["./tool"], Some(folder.path()));
        assert!(found(&worker).unwrap_err().contains("chmod +x"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(found(&worker).unwrap().ends_with("tool"));
    }

    #[test]
    fn a_missing_folder_is_told_from_a_missing_program() {
        let error = found(&config(&["sh"], Some(Path::new("/no/folder")))).unwrap_err();
        assert!(error.starts_with("`dir`: /no/folder is not a folder"), "{error}");
    }

    #[test]
    fn the_workers_own_path_is_searched() {
        let mut worker = config(&["sh"], None);
        worker.env.insert("PATH".into(), "/no/folder".into());
        assert!(found(&worker).unwrap_err().contains("(/no/folder)"));
    }

    #[test]
    fn a_given_worker_program_must_exist() {
        let mut worker = config(&[], None);
        worker.program = Program::Denoise;
        let error = command_line(&worker, "w", 0, Some(Path::new("/no/worker")), Path::new("/s"));
        assert_eq!(error.unwrap_err(), "/no/worker: does not exist; correct --worker-bin");
        let line = command_line(&worker, "w#2", 1, Some(Path::new("/bin/true")), Path::new("/s"));
        let arguments = line.unwrap().arguments;
        assert_eq!(arguments, ["denoise", "--listen", "/s", "--name", "w#2"]);
    }

    #[test]
    fn each_instance_has_a_port_of_its_own() {
        let mut worker = config(&["sh", "--port={port}"], None);
        worker.adapter = Some(Adapter::Http(Http { port: Some(8080), ..Http::default() }));
        let line = command_line(&worker, "w#3", 2, None, Path::new("/s")).unwrap();
        assert_eq!(line.arguments, ["--port=8082"]);
        worker.adapter = Some(Adapter::Http(Http { port: Some(65_535), ..Http::default() }));
        assert_eq!((port(&worker, 0), port(&worker, 1)), (Some(65_535), None));
    }
}
