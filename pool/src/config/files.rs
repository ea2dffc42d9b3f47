//! pool.d on disk.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::{Problem, Source};

/// No pool file of use is longer.
const MAX_BYTES: u64 = 1 << 20;

/// Reads `*.toml` of `folder` in name order; nothing where the folder does not exist.
///
/// # Errors
/// Every file that cannot be read or that others may write, with the remedy.
pub fn read(folder: &Path) -> Result<Option<Vec<Source>>, Vec<Problem>> {
    let whole = |path: &Path, message: String| Problem { path: path.into(), place: None, message };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let message = format!("{error}; make it readable for the pool's user");
            return Err(vec![whole(folder, message)]);
        }
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| vec![whole(folder, error.to_string())])?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension() == Some(OsStr::new("toml")) && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    let (mut sources, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match read_file(&path) {
            Ok(text) => sources.push(Source { path, text }),
            Err(message) => problems.push(whole(&path, message)),
        }
    }
    if problems.is_empty() { Ok(Some(sources)) } else { Err(problems) }
}

fn read_file(path: &Path) -> Result<String, String> {
    // Without O_NONBLOCK a FIFO would hold the pool up for ever.
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(
            |error| format!("{error}; make it readable for the pool's user, or remove it"),
        )?;
    check(&file)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("longer than {MAX_BYTES} bytes; split it"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}

/// Looks at the open file, so that nobody can change what the path means in between.
fn check(file: &File) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file; remove it".into());
    }
    let mode = metadata.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(format!(
            "mode {:o} lets others than its owner write it, and so choose what the pool runs; \
             refused until `chmod go-w`",
            mode & 0o7777
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &[u8], mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_missing_folder_is_not_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("pool.d")), Ok(None));
    }

    #[test]
    fn toml_files_come_in_name_order_and_nothing_else_comes() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["20-b.toml", "10-a.toml", ".30-c.toml", "40-d.toml.bak", "README"] {
            write(&folder.path().join(name), b"", 0o644);
        }
        let sources = read(folder.path()).unwrap().unwrap();
        let names: Vec<_> = sources.iter().map(|s| s.path.file_name().unwrap()).collect();
        assert_eq!(names, ["10-a.toml", "20-b.toml"]);
    }

    #[test]
    fn files_that_others_may_write_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("a.toml"), b"", 0o664);
        write(&folder.path().join("b.toml"), b"", 0o646);
        write(&folder.path().join("c.toml"), b"", 0o644);
        let problems = read(folder.path()).unwrap_err();
        assert_eq!(problems.len(), 2);
        assert!(problems[0].to_string().contains("a.toml: mode 664"), "{}", problems[0]);
        assert!(problems[1].message.contains("chmod go-w"), "{}", problems[1]);
    }

    #[test]
    fn what_is_no_text_file_is_refused_and_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("a.toml"), b"\xff\xfe", 0o644);
        fs::create_dir(folder.path().join("b.toml")).unwrap();
        nix::unistd::mkfifo(&folder.path().join("c.toml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::os::unix::fs::symlink("/nowhere", folder.path().join("d.toml")).unwrap();
        let problems = read(folder.path()).unwrap_err();
        let messages: Vec<_> = problems.iter().map(|p| p.message.as_str()).collect();
        assert!(messages[0].contains("not UTF-8"), "{messages:?}");
        assert!(messages[1].contains("not a regular file"), "{messages:?}");
        assert!(messages[2].contains("not a regular file"), "{messages:?}");
        assert!(messages[3].contains("No such file"), "{messages:?}");
    }
}
