//! Which libraries a process has mapped, from `/proc/PID/maps`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// How much of the file is read: 4,000 mappings, more than a browser has.
const MAX_MAPS: u64 = 512 << 10;

/// Libraries of one process that are kept.
const MOST_LIBRARIES: usize = 512;

/// File names of the libraries that a process has mapped to run, in order.
///
/// # Errors
/// When the process is gone, or may not be looked at.
pub fn libraries(process: &Path) -> io::Result<Vec<String>> {
    let mut text = Vec::new();
    File::open(process.join("maps"))?.take(MAX_MAPS).read_to_end(&mut text)?;
    let names: BTreeSet<&[u8]> = text.split(|byte| *byte == b'\n').filter_map(library).collect();
    let name = |name: &&[u8]| String::from_utf8_lossy(name).into_owned();
    Ok(names.iter().take(MOST_LIBRARIES).map(name).collect())
}

/// `7f…-7f… r-xp 00026000 fe:00 4194 /usr/lib/libc.so.6`: the name of a shared library whose code
/// can run. A library without a line like that is opened to be read, as `ldconfig` does.
fn library(line: &[u8]) -> Option<&[u8]> {
    let permissions = line.iter().position(|byte| *byte == b' ')? + 1;
    if line.get(permissions + 2)? != &b'x' {
        return None;
    }
    // The path is the one field with a slash in it; device numbers have none.
    let path = line.get(line.iter().position(|byte| *byte == b'/')?..)?;
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let is_library = name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.");
    is_library.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_shared_objects_that_can_run() {
        let folder = tempfile::tempdir().unwrap();
        let maps = "\
55d0-55d4 r-xp 00000000 fe:00 31 /usr/bin/whisper-server
7f10-7f20 r--p 00000000 fe:00 32 /opt/a b/libonnxruntime.so.1.17.0
7f20-7f30 r-xp 00010000 fe:00 32 /opt/a b/libonnxruntime.so.1.17.0
7f30-7f40 r-xp 00000000 fe:00 33 /usr/lib/libwhisper.so (deleted)
7f40-7f50 rw-p 00000000 fe:00 34 /usr/lib/libonlydata.so.1
7f50-7f60 r-xp 00000000 fe:00 35 /usr/lib/python3/_ssl.cpython-311-x86_64-linux-gnu.so
7f60-7f70 r-xp 00000000 00:00 0
7ffd-7ffe r-xp 00000000 00:00 0 [vdso]
";
        std::fs::write(folder.path().join("maps"), maps).unwrap();
        assert_eq!(
            libraries(folder.path()).unwrap(),
            ["_ssl.cpython-311-x86_64-linux-gnu.so", "libonnxruntime.so.1.17.0", "libwhisper.so"]
        );
    }

    #[test]
    fn the_tests_own_libraries_are_found() {
        let own = libraries(Path::new("/proc/self")).unwrap();
        assert!(own.iter().any(|name| name.starts_with("libc.so")), "{own:?}");
    }
}
