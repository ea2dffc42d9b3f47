use super::*;
use std::os::unix::fs::{FileExt, PermissionsExt};

/// Files of shared memory, removed with it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").expect("a folder in /dev/shm"))
    }

    fn regions(&self) -> Regions {
        Regions::below(self.0.path())
    }

    fn file(&self, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

fn own() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Neither root nor who runs this.
const OTHER: u32 = 64_123;

fn part(name: &str, key: &str, offset: u64, byte_size: u64) -> Shown {
    Shown { name: name.into(), key: key.into(), offset, byte_size }
}

fn place(region: &str, offset: u64, bytes: u64) -> Place {
    Place { region: region.into(), offset, bytes }
}

fn said<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_part_of_a_part_is_read_and_written() {
    let folder = Folder::new();
    let path = folder.file("frames", b"0123456789", 0o600);
    let regions = folder.regions();
    regions.register(own(), part("in", "/frames", 2, 6)).unwrap();
    assert_eq!(regions.readable(own(), &place("in", 1, 4)).unwrap().read().unwrap(), "3456");
    let (file, at) = regions.writable(own(), &place("in", 5, 1)).unwrap();
    assert_eq!(rustix::io::pwrite(&file, b"x", at), Ok(1));
    assert_eq!(std::fs::read(&path).unwrap(), b"0123456x89");
    for (offset, bytes) in [(0, 7), (6, 1), (u64::MAX, 1), (1, u64::MAX)] {
        let why = said(regions.readable(own(), &place("in", offset, bytes)));
        assert!(why.contains("`in` has 6 bytes") && why.contains("no part of it"), "{why}");
    }
    assert!(said(regions.readable(own(), &place("out", 0, 1))).contains("no shared memory region"));
    assert_eq!(regions.shown(own(), None).unwrap(), [part("in", "/frames", 2, 6)]);
    regions.unregister(own(), Some("other"));
    regions.unregister(own(), Some("in"));
    assert_eq!(regions.shown(own(), None).unwrap(), []);
    assert!(said(regions.shown(own(), Some("in"))).contains("no shared memory region `in`"));
}

#[test]
fn a_name_belongs_to_who_registered_it() {
    let folder = Folder::new();
    folder.file("public", b"12345678", 0o666);
    folder.file("private", b"secret!!", 0o600);
    folder.file("lent", b"readable", 0o644);
    let regions = folder.regions();
    regions.register(own(), part("x", "private", 0, 8)).unwrap();
    assert!(said(regions.readable(OTHER, &place("x", 0, 8))).contains("no shared memory region"));
    assert!(said(regions.register(OTHER, part("x", "private", 0, 8))).contains("may not read it"));
    regions.register(OTHER, part("x", "public", 0, 8)).unwrap();
    assert_eq!(regions.readable(OTHER, &place("x", 0, 8)).unwrap().read().unwrap(), "12345678");
    assert!(regions.writable(OTHER, &place("x", 0, 8)).is_ok());
    regions.register(OTHER, part("lent", "lent", 0, 8)).unwrap();
    assert!(said(regions.writable(OTHER, &place("lent", 0, 8))).contains("may only be read"));
    regions.unregister(OTHER, None);
    assert_eq!(regions.shown(own(), None).unwrap().len(), 1, "only one's own are forgotten");
}

#[test]
fn what_is_no_shared_memory_is_refused() {
    let folder = Folder::new();
    folder.file("short", b"1234", 0o600);
    std::os::unix::fs::symlink("/etc/passwd", folder.0.path().join("link")).unwrap();
    std::fs::create_dir(folder.0.path().join("folder")).unwrap();
    let fifo = folder.0.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let regions = folder.regions();
    let refused =
        |key: &str, offset, bytes| said(regions.register(own(), part("x", key, offset, bytes)));
    for key in ["", "/", "..", "../short", "a/b", "/etc/passwd", "a\0b"] {
        assert!(refused(key, 0, 1).contains("no key of shared memory"), "{key:?}");
    }
    assert!(refused("nothing", 0, 1).contains("no such file; make it with shm_open(3)"));
    assert!(refused("link", 0, 1).contains("a link"));
    assert!(refused("folder", 0, 1).contains("no file of shared memory"));
    assert!(refused("fifo", 0, 1).contains("no file of shared memory"));
    for (offset, bytes) in [(0, 5), (4, 1), (0, 0), (u64::MAX, 2), (1, u64::MAX)] {
        assert!(refused("short", offset, bytes).contains("it has 4 bytes"), "{offset} {bytes}");
    }
    let long = part(&"x".repeat(256), "short", 0, 1);
    assert!(said(regions.register(own(), long)).contains("1 to 255 bytes"));
    let elsewhere = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    std::fs::write(elsewhere.path().join("disk"), b"1234").unwrap();
    let on_disk = Regions::below(elsewhere.path());
    assert!(said(on_disk.register(own(), part("x", "disk", 0, 1))).contains("tmpfs"));
}

#[test]
fn a_name_is_taken_until_it_or_its_file_is_gone() {
    let folder = Folder::new();
    let path = folder.file("one", b"1234", 0o600);
    let regions = folder.regions();
    regions.register(own(), part("x", "one", 0, 4)).unwrap();
    assert!(said(regions.register(own(), part("x", "one", 0, 4))).contains("registered already"));
    std::fs::remove_file(path).unwrap();
    folder.file("one", b"5678", 0o600);
    regions.register(own(), part("x", "one", 0, 4)).unwrap();
    assert_eq!(regions.readable(own(), &place("x", 0, 4)).unwrap().read().unwrap(), "5678");
}

#[test]
fn one_user_has_so_many_regions_and_bytes() {
    let folder = Folder::new();
    let path = folder.file("large", b"", 0o600);
    // With holes: it takes no memory.
    std::fs::File::options().write(true).open(&path).unwrap().write_at(b"x", 2 << 30).unwrap();
    let regions = folder.regions();
    let refused = |name: &str, bytes| said(regions.register(own(), part(name, "large", 0, bytes)));
    assert!(refused("x", MAX_BYTES + 1).contains("take a shorter one"));
    regions.register(own(), part("half", "large", 0, MAX_BYTES / 2 + 1)).unwrap();
    assert!(refused("x", MAX_BYTES / 2).contains("bytes together"));
    for number in 1..MAX_REGIONS {
        regions.register(own(), part(&number.to_string(), "large", 0, 1)).unwrap();
    }
    assert!(refused("x", 1).contains("64 regions"));
}
