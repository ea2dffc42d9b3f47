//! On folders that look like a hierarchy. What the kernel itself does is checked in guests.

use super::*;

struct Hierarchy {
    dir: tempfile::TempDir,
    groups: Groups,
}

impl Hierarchy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().join("cgroup");
        fs::create_dir(&point).unwrap();
        let mount = Some(Mount::new(point, "/".into()));
        Self { groups: Groups { proc: dir.path().join("proc"), mount }, dir }
    }

    fn file(&self, group: &str, name: &str) -> PathBuf {
        self.dir.path().join("cgroup").join(group).join(name)
    }

    fn put(&self, group: &str, name: &str, text: &str) {
        let file = self.file(group, name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    fn has(&self, group: &str, name: &str) -> String {
        fs::read_to_string(self.file(group, name)).unwrap()
    }

    fn read(&self, lever: Lever) -> Value {
        self.groups.read(lever, "/it").unwrap()
    }
}

#[test]
fn every_file_is_read_as_the_kernel_writes_it() {
    let it = Hierarchy::new();
    for (name, text) in [
        ("cgroup.freeze", "0\n"),
        ("cpu.weight", "100\n"),
        ("cpu.idle", "0\n"),
        ("cpu.max", "max 100000\n"),
        ("memory.low", "268435456\n"),
        ("memory.max", "max\n"),
        ("io.weight", "default 100\n8:16 50\n"),
        ("io.max", "8:0 rbps=1048576 wbps=max riops=max wiops=max\n"),
        ("cpuset.cpus", "\n"),
        ("cpuset.cpus.partition", "member\n"),
        ("cgroup.subtree_control", "cpu memory\n"),
    ] {
        it.put("it", name, text);
    }
    assert_eq!(it.read(Lever::Freeze), Value::Freeze(false));
    assert_eq!(it.read(Lever::CpuWeight), Value::CpuWeight(CpuShare::Weight(100)));
    let free = CpuLimit { quota_us: None, period_us: 100_000, burst_us: 0 };
    assert_eq!(it.read(Lever::CpuMax), Value::CpuMax(free));
    assert_eq!(it.read(Lever::MemoryLow), Value::MemoryLow(Some(256 << 20)));
    assert_eq!(it.read(Lever::MemoryMax), Value::MemoryMax(None));
    assert_eq!(it.read(Lever::IoWeight), Value::IoWeight(Some(100)));
    let Value::IoMax(limits) = it.read(Lever::IoMax) else { panic!("another lever's value") };
    assert_eq!(limits.0["8:0"], "rbps=1048576 wbps=max riops=max wiops=max");
    let none = Cpuset { cpus: vec![], partition: "member".into() };
    assert_eq!(it.read(Lever::Cpuset), Value::Cpuset(none));
    let both = BTreeSet::from(["cpu".to_owned(), "memory".to_owned()]);
    assert_eq!(it.read(Lever::Controllers), Value::Controllers(both));
    it.put("it", "cpu.idle", "1\n");
    assert_eq!(it.read(Lever::CpuWeight), Value::CpuWeight(CpuShare::Idle));
}

#[test]
fn every_file_is_written_as_the_kernel_reads_it() {
    let it = Hierarchy::new();
    for name in ["cpu.weight", "cpu.max", "cpu.max.burst", "memory.high", "io.latency"] {
        it.put("it", name, "");
    }
    it.put("it", "cpu.idle", "1\n");
    let set = |value: Value| it.groups.write("/it", &value).unwrap();
    set(Value::CpuWeight(CpuShare::Weight(800)));
    assert_eq!(
        (it.has("it", "cpu.idle"), it.has("it", "cpu.weight")),
        ("0\n".into(), "800".into())
    );
    let limit = CpuLimit { quota_us: Some(20_000), period_us: 100_000, burst_us: 5_000 };
    set(Value::CpuMax(limit));
    assert_eq!(it.has("it", "cpu.max"), "20000 100000");
    assert_eq!(it.has("it", "cpu.max.burst"), "5000");
    set(Value::MemoryHigh(None));
    assert_eq!(it.has("it", "memory.high"), "max");
    let latency = BTreeMap::from([("8:0".to_owned(), "target=20000".to_owned())]);
    set(Value::IoLatency(PerDevice(latency)));
    assert_eq!(it.has("it", "io.latency"), "8:0 target=20000");
}

#[test]
fn a_group_without_the_file_says_what_lacks_and_one_that_is_gone_is_gone() {
    let it = Hierarchy::new();
    it.put("it", "cgroup.procs", "");
    let error = it.groups.read(Lever::MemoryLow, "/it").unwrap_err();
    assert!(error.to_string().contains("its memory controller is off"), "{error}");
    assert!(!super::super::is_gone(&error));
    let error = it.groups.write("/gone", &Value::Freeze(true)).unwrap_err();
    assert!(super::super::is_gone(&error), "{error}");
}

#[test]
fn a_controller_that_is_not_there_does_not_make_the_group_gone() {
    let missing = io::Error::from_raw_os_error(libc::ENOENT);
    let error = not_passed_on(&missing, "+cpu", Path::new("/sys/fs/cgroup/it"));
    assert!(!crate::act::is_gone(&error));
    assert!(error.to_string().contains("version 1"), "{error}");
}

#[test]
fn a_folder_is_made_and_removed() {
    let it = Hierarchy::new();
    assert_eq!(it.groups.read(Lever::Folder, "/own").unwrap(), Value::Folder(false));
    for there in [true, true, false, false] {
        it.groups.write("/own", &Value::Folder(there)).unwrap();
        assert_eq!(it.groups.read(Lever::Folder, "/own").unwrap(), Value::Folder(there));
    }
}

#[test]
fn a_threaded_group_is_left_alone() {
    let it = Hierarchy::new();
    it.put("it", "cgroup.type", "threaded\n");
    it.put("own", "cgroup.procs", "");
    let proc = it.dir.path().join("proc/7");
    fs::create_dir_all(&proc).unwrap();
    fs::write(proc.join("cgroup"), "0::/it\n").unwrap();
    let error = it.groups.move_process(7, "/own").unwrap_err();
    assert!(error.to_string().contains("threaded"), "{error}");
    it.put("it", "cgroup.type", "domain\n");
    it.groups.move_process(7, "/own").unwrap();
    assert_eq!(it.has("own", "cgroup.procs"), "7");
    let error = it.groups.move_process(7, "/nowhere").unwrap_err();
    assert!(!super::super::is_gone(&error), "the process is there: {error}");
}

#[test]
fn another_folder_of_the_same_name_is_another_group() {
    let it = Hierarchy::new();
    it.put("it", "cgroup.procs", "");
    let inode = fs::metadata(it.file("it", "")).unwrap().ino();
    let id = GroupId { path: "/it".into(), inode };
    assert!(it.groups.is_same(&id));
    assert!(!it.groups.is_same(&GroupId { inode: inode + 1, ..id.clone() }));
    assert!(!it.groups.is_same(&GroupId { path: "/other".into(), ..id }));
}
