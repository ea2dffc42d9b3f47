//! Policy files on disk.
//!
//! A policy tells a root process what to do, so it counts only where nobody but root and the
//! agent's own user could have written it: folder and file are opened first and then judged by
//! their descriptors, and each file is opened through its folder's descriptor, so nothing can be
//! swapped between the look and the reading.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use downbeat_policy::Source;
use nix::dir::Dir;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

/// Largest policy file, bytes.
pub const LARGEST_FILE: u64 = 1 << 20;

/// Mode bits that let group or others write.
const OTHERS_CAN_WRITE: u32 = 0o022;

/// What [`read_folders`] found.
#[derive(Clone, Debug, Default)]
pub struct PolicyFiles {
    /// In order of their file names.
    pub sources: Vec<Source>,
    /// Folders that do not exist, as given. Not an error: `/etc/downbeat/policy.d` is there only
    /// where somebody wrote a policy of their own.
    pub missing_folders: Vec<PathBuf>,
}

/// Why a policy file or folder was refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFilesError {
    /// A folder or file could not be opened or read.
    #[error("{}: {source}{}", path.display(), unreadable_remedy(source))]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Group or others can write the folder or file.
    #[error(
        "{}: group or others can write it (mode {mode:04o}), so anybody's wish could become \
         policy; run `chmod go-w {}`", path.display(), shell_word(path)
    )]
    WritableByOthers {
        /// What.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder or file belongs neither to root nor to the user that reads it.
    #[error(
        "{}: owned by uid {owner}, which is neither root nor the user that reads it (uid \
         {reader}); run `chown {reader} {}`", path.display(), shell_word(path)
    )]
    ForeignOwner {
        /// What.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The caller's effective uid.
        reader: u32,
    },
    /// A folder, a device, a pipe.
    #[error(
        "{}: not a regular file, as a policy must be; {}", path.display(), no_file_remedy(path)
    )]
    NotAFile {
        /// What.
        path: PathBuf,
    },
    /// Larger than [`LARGEST_FILE`].
    #[error(
        "{}: larger than {LARGEST_FILE} bytes, which no policy needs; split it or remove it",
        path.display()
    )]
    TooLarge {
        /// What.
        path: PathBuf,
    },
    /// Not UTF-8.
    #[error("{}:{line}: not UTF-8; save the file in that encoding", path.display())]
    NotUtf8 {
        /// What.
        path: PathBuf,
        /// The first line that is not, from 1.
        line: usize,
    },
}

fn unreadable_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run as root, or let the user that reads it read it and enter its folder"
        }
        io::ErrorKind::NotFound => "; check the path",
        _ => "",
    }
}

/// Only what is called `*.toml` was found in a folder; the rest was named by somebody.
fn no_file_remedy(path: &Path) -> &'static str {
    if path.extension().is_some_and(|extension| extension == "toml") {
        "remove it, or give it a name that does not end in .toml"
    } else {
        "name a file or a folder, or give the text by standard input as `-`"
    }
}

/// A path as one word of a shell's command line.
#[must_use]
pub fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Reads `*.toml` of all folders; a file in a later folder replaces one of the same name in an
/// earlier one, which is then not even opened. Hidden files (an editor's) are left out.
///
/// # Errors
/// Every [`PolicyFilesError`] of every folder and file. A folder that is refused is not looked
/// into.
pub fn read_folders(folders: &[&Path]) -> Result<PolicyFiles, Vec<PolicyFilesError>> {
    let mut found = PolicyFiles::default();
    let mut errors = Vec::new();
    let mut opened = Vec::new();
    for folder in folders {
        match PolicyFolder::open(folder) {
            Ok(Some(folder)) => opened.push(folder),
            Ok(None) => found.missing_folders.push(folder.to_path_buf()),
            Err(error) => errors.push(error),
        }
    }
    let mut files: BTreeMap<&OsString, &PolicyFolder> = BTreeMap::new();
    for folder in &opened {
        files.extend(folder.names.iter().map(|name| (name, folder)));
    }
    for (name, folder) in files {
        match read_at(&folder.dir, Path::new(name), folder.path.join(name)) {
            Ok(source) => found.sources.push(source),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

/// Reads one file, for `downbeat check`. The same is asked of it as of a file in a policy folder,
/// but not of its folder, so that a draft can be checked anywhere.
///
/// # Errors
/// [`PolicyFilesError`] naming the file.
pub fn read_file(path: &Path) -> Result<Source, PolicyFilesError> {
    read_at(AT_FDCWD, path, path.to_path_buf())
}

/// Reads a policy from a stream, for `downbeat check -`; `path` is its name in messages. Nobody's
/// rights are asked: what comes this way is checked and never becomes policy.
///
/// # Errors
/// [`PolicyFilesError`] naming the stream.
pub fn read_stream(stream: impl Read, path: &Path) -> Result<Source, PolicyFilesError> {
    read_text(stream, path.to_path_buf())
}

/// A policy folder that may be trusted.
struct PolicyFolder {
    path: PathBuf,
    dir: Dir,
    /// Its `*.toml`.
    names: Vec<OsString>,
}

impl PolicyFolder {
    /// Nothing where there is no such folder.
    fn open(path: &Path) -> Result<Option<Self>, PolicyFilesError> {
        let unreadable =
            |source: io::Error| PolicyFilesError::Unreadable { path: path.to_path_buf(), source };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = match openat(AT_FDCWD, path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(nix::Error::ENOENT) => return Ok(None),
            Err(errno) => return Err(unreadable(errno.into())),
        };
        refuse_untrusted(path, &folder.metadata().map_err(unreadable)?, geteuid().as_raw())?;
        let mut dir = Dir::from_fd(folder.into()).map_err(|errno| unreadable(errno.into()))?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let name =
                entry.map_err(|errno| unreadable(errno.into()))?.file_name().to_bytes().to_vec();
            if name.ends_with(b".toml") && !name.starts_with(b".") {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(Some(Self { path: path.to_path_buf(), dir, names }))
    }
}

/// Reads the file `name` below `folder`; `path` is its name in messages.
fn read_at(folder: impl AsFd, name: &Path, path: PathBuf) -> Result<Source, PolicyFilesError> {
    let unreadable =
        |source: io::Error| PolicyFilesError::Unreadable { path: path.clone(), source };
    // A pipe must not keep the agent waiting for a writer, nor a terminal become its own.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty()).map_err(|e| unreadable(e.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(PolicyFilesError::NotAFile { path });
    }
    refuse_untrusted(&path, &metadata, geteuid().as_raw())?;
    read_text(file, path)
}

fn read_text(stream: impl Read, path: PathBuf) -> Result<Source, PolicyFilesError> {
    let mut bytes = Vec::new();
    // One byte more tells a file that is too large, even if it grows meanwhile.
    stream
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| PolicyFilesError::Unreadable { path: path.clone(), source })?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(PolicyFilesError::TooLarge { path });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { path, text }),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            Err(PolicyFilesError::NotUtf8 { path, line })
        }
    }
}

/// Refuses what somebody else than root and the reader could have written.
fn refuse_untrusted(path: &Path, metadata: &Metadata, reader: u32) -> Result<(), PolicyFilesError> {
    let path = || path.to_path_buf();
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS_CAN_WRITE != 0 {
        return Err(PolicyFilesError::WritableByOthers { path: path(), mode });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != reader {
        return Err(PolicyFilesError::ForeignOwner { path: path(), owner, reader });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    /// Two folders that a policy may stand in.
    struct Folders {
        _root: TempDir,
        shipped: PathBuf,
        own: PathBuf,
    }

    impl Folders {
        fn new() -> Self {
            let root = TempDir::new().expect("a temporary folder");
            let [shipped, own] = ["usr", "etc"].map(|name| {
                let folder = root.path().join(name);
                fs::create_dir(&folder).expect("a folder");
                set_mode(&folder, 0o755);
                folder
            });
            Self { _root: root, shipped, own }
        }

        fn read(&self) -> Result<PolicyFiles, Vec<PolicyFilesError>> {
            read_folders(&[&self.shipped, &self.own])
        }

        /// What is wrong, each in its own line.
        fn errors(&self) -> String {
            let errors = self.read().expect_err("something to be refused");
            errors.iter().map(|e| format!("{e}\n")).collect()
        }
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("own files");
    }

    fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).expect("a file");
        set_mode(&path, 0o644);
        path
    }

    #[test]
    fn files_come_in_name_order_and_later_folders_replace() {
        let folders = Folders::new();
        write(&folders.shipped, "90-b.toml", "shipped 90");
        write(&folders.shipped, "50-a.toml", "shipped 50");
        write(&folders.own, "60-c.toml", "own 60");
        write(&folders.own, "50-a.toml", "own 50");
        let found = folders.read().expect("good files");
        let read: Vec<_> =
            found.sources.iter().map(|s| (s.path.as_path(), s.text.as_str())).collect();
        let expected = [
            (folders.own.join("50-a.toml"), "own 50"),
            (folders.own.join("60-c.toml"), "own 60"),
            (folders.shipped.join("90-b.toml"), "shipped 90"),
        ];
        assert_eq!(read, expected.each_ref().map(|(path, text)| (path.as_path(), *text)));
        assert!(found.missing_folders.is_empty());
    }

    #[test]
    fn only_visible_toml_files_are_read() {
        let folders = Folders::new();
        for name in ["README", "a.toml~", ".b.toml", "toml", "c.TOML"] {
            write(&folders.own, name, "not me");
        }
        symlink("nobody@host.1234", folders.own.join(".#c.toml")).expect("an editor's lock");
        assert!(folders.read().expect("nothing bad").sources.is_empty());
    }

    #[test]
    fn a_missing_folder_is_told_and_no_error() {
        let folders = Folders::new();
        write(&folders.shipped, "a.toml", "shipped");
        fs::remove_dir(&folders.own).expect("an empty folder");
        let found = folders.read().expect("good files");
        assert_eq!(found.sources.len(), 1);
        assert_eq!(found.missing_folders, [folders.own]);
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        for mode in [0o664, 0o646, 0o620] {
            let folders = Folders::new();
            let path = write(&folders.own, "a.toml", "");
            set_mode(&path, mode);
            let path = path.display();
            assert_eq!(
                folders.errors(),
                format!(
                    "{path}: group or others can write it (mode {mode:04o}), so anybody's wish \
                     could become policy; run `chmod go-w {path}`\n"
                )
            );
        }
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused_even_with_the_sticky_bit() {
        for mode in [0o775, 0o1777] {
            let folders = Folders::new();
            write(&folders.own, "a.toml", "");
            set_mode(&folders.own, mode);
            let errors = folders.errors();
            let expected = format!(
                "{}: group or others can write it (mode {mode:04o})",
                folders.own.display()
            );
            assert!(errors.starts_with(&expected), "{errors}");
        }
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        let folders = Folders::new();
        let path = write(&folders.own, "a.toml", "");
        let metadata = fs::metadata(&path).expect("a file");
        // The reader, not the file, changes here, which needs no privilege.
        let stranger = metadata.uid() + 1;
        match refuse_untrusted(&path, &metadata, stranger) {
            // Root's files are everybody's policy.
            Ok(()) => assert_eq!(metadata.uid(), 0),
            Err(error) => assert!(error.to_string().contains("neither root nor"), "{error}"),
        }
        if !geteuid().is_root() {
            eprintln!("skipped: giving a file to another user needs root");
            return;
        }
        std::os::unix::fs::chown(&path, Some(4242), None).expect("root may");
        let path = path.display();
        assert_eq!(
            folders.errors(),
            format!(
                "{path}: owned by uid 4242, which is neither root nor the user that reads it (uid \
                 0); run `chown 0 {path}`\n"
            )
        );
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting_for_it() {
        let folders = Folders::new();
        fs::create_dir(folders.own.join("a.toml")).expect("a folder");
        nix::unistd::mkfifo(&folders.own.join("b.toml"), Mode::S_IRUSR).expect("a pipe");
        symlink("/dev/zero", folders.own.join("c.toml")).expect("a link");
        let errors = folders.errors();
        assert_eq!(errors.matches("not a regular file").count(), 3, "{errors}");
    }

    #[test]
    fn a_link_is_judged_by_what_it_points_to() {
        let folders = Folders::new();
        let target = write(&folders.shipped, "target", "text");
        symlink(&target, folders.own.join("a.toml")).expect("a link");
        assert_eq!(folders.read().expect("a good file").sources[0].text, "text");
        set_mode(&target, 0o666);
        assert!(folders.errors().contains("a.toml: group or others can write it"));
        fs::remove_file(&target).expect("own file");
        assert!(folders.errors().contains("No such file"), "{}", folders.errors());
    }

    #[test]
    fn size_and_encoding_are_checked() {
        let folders = Folders::new();
        let limit = usize::try_from(LARGEST_FILE).expect("a small number");
        write(&folders.own, "a.toml", "#".repeat(limit));
        assert_eq!(folders.read().expect("just small enough").sources[0].text.len(), limit);
        write(&folders.own, "a.toml", "#".repeat(limit + 1));
        write(&folders.own, "b.toml", b"a = 1\nb = \"\xe9\"\n");
        let (a, b) = (folders.own.join("a.toml"), folders.own.join("b.toml"));
        assert_eq!(
            folders.errors(),
            format!(
                "{}: larger than 1048576 bytes, which no policy needs; split it or remove it\n\
                 {}:2: not UTF-8; save the file in that encoding\n",
                a.display(),
                b.display()
            )
        );
    }

    #[test]
    fn everything_wrong_is_told_at_once_but_not_what_is_replaced() {
        let folders = Folders::new();
        write(&folders.shipped, "a.toml", b"\xff");
        write(&folders.own, "a.toml", "good");
        write(&folders.own, "b.toml", b"\xff");
        set_mode(&write(&folders.shipped, "c.toml", ""), 0o666);
        assert_eq!(folders.errors().lines().count(), 2, "{}", folders.errors());
    }

    #[test]
    fn a_file_in_place_of_a_folder_is_named() {
        let folders = Folders::new();
        let path = write(&folders.own, "policy.d", "");
        let errors = read_folders(&[&path]).expect_err("not a folder");
        assert_eq!(
            errors[0].to_string(),
            format!("{}: Not a directory (os error 20)", path.display())
        );
    }

    #[test]
    fn one_file_is_read_wherever_it_stands() {
        let folders = Folders::new();
        set_mode(&folders.own, 0o777);
        let path = write(&folders.own, "draft", "text");
        assert_eq!(read_file(&path).expect("a good file").text, "text");
        let missing = read_file(&folders.own.join("nothing")).expect_err("no file");
        assert!(missing.to_string().ends_with("check the path"), "{missing}");
        let device = read_file(Path::new("/dev/null")).expect_err("no file").to_string();
        assert!(device.ends_with("or give the text by standard input as `-`"), "{device}");
        set_mode(&path, 0o664);
        assert!(matches!(read_file(&path), Err(PolicyFilesError::WritableByOthers { .. })));
    }

    #[test]
    fn a_remedy_can_be_pasted() {
        assert_eq!(shell_word(Path::new("/etc/a.toml")), "/etc/a.toml");
        assert_eq!(shell_word(Path::new("/tmp/it's a.toml")), r"'/tmp/it'\''s a.toml'");
    }
}
