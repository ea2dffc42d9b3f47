use super::*;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

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

/// What a region holds at a place.
fn held(regions: &Regions, user: u32, at: &Place) -> Result<String, Refusal> {
    let Region { file, offset, length } = regions.region(user, at)?;
    let mut bytes = vec![0; length as usize];
    let count = rustix::io::pread(file.as_fd(), &mut bytes[..], offset).unwrap();
    bytes.truncate(count);
    Ok(String::from_utf8(bytes).unwrap())
}

#[test]
fn a_part_of_a_part_is_read() {
    let folder = Folder::new();
    folder.file("frames", b"0123456789", 0o600);
    let regions = folder.regions();
    regions.register(own(), part("in", "/frames", 2, 6)).unwrap();
    assert_eq!(held(&regions, own(), &place("in", 1, 4)).unwrap(), "3456");
    for (offset, bytes) in [(0, 7), (6, 1), (u64::MAX, 1), (1, u64::MAX)] {
        let why = said(regions.region(own(), &place("in", offset, bytes)));
        assert!(why.contains("`in` has 6 bytes") && why.contains("no part of it"), "{why}");
    }
    assert!(said(regions.region(own(), &place("out", 0, 1))).contains("no shared memory region"));
    assert_eq!(regions.shown(own(), None).unwrap(), [part("in", "/frames", 2, 6)]);
    regions.unregister(own(), Some("other"));
    regions.unregister(own(), Some("in"));
    assert_eq!(regions.shown(own(), None).unwrap(), []);
    assert!(said(regions.shown(own(), Some("in"))).contains("no shared memory region `in`"));
}

#[test]
fn a_name_belongs_to_who_registered_it_and_a_file_to_its_owner() {
    let folder = Folder::new();
    folder.file("mine", b"secret!!", 0o600);
    let regions = folder.regions();
    regions.register(own(), part("x", "mine", 0, 8)).unwrap();
    assert!(said(regions.region(OTHER, &place("x", 0, 8))).contains("no shared memory region"));
    // Neither rights of others nor to be root makes it theirs.
    folder.file("public", b"12345678", 0o666);
    for user in [OTHER, own() + 1] {
        for key in ["mine", "public"] {
            let why = said(regions.register(user, part("x", key, 0, 8)));
            assert!(why.contains(&format!("belongs to user {}", own())), "{why}");
        }
    }
    if own() == 0 {
        let path = folder.file("theirs", b"12345678", 0o600);
        nix::unistd::chown(&path, Some(OTHER.into()), None).unwrap();
        assert!(said(regions.register(0, part("y", "theirs", 0, 8))).contains("user 64123"));
        regions.register(OTHER, part("x", "theirs", 0, 8)).unwrap();
        assert_eq!(held(&regions, OTHER, &place("x", 0, 8)).unwrap(), "12345678");
        assert_eq!(held(&regions, 0, &place("x", 0, 8)).unwrap(), "secret!!");
        let unreadable = folder.file("write-only", b"12345678", 0o200);
        nix::unistd::chown(&unreadable, Some(OTHER.into()), None).unwrap();
        assert!(said(regions.register(OTHER, part("z", "write-only", 0, 8))).contains("mode 200"));
    }
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
    assert!(said(regions.region(own(), &place("x", 0, 4))).contains("was removed"));
    folder.file("one", b"5678", 0o600);
    regions.register(own(), part("x", "one", 0, 4)).unwrap();
    assert_eq!(held(&regions, own(), &place("x", 0, 4)).unwrap(), "5678");
}
