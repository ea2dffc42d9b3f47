use super::*;

/// A folder that looks like a group with these controllers.
fn folder(controllers: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in
        [("cgroup.procs", ""), ("cgroup.controllers", controllers), ("cgroup.subtree_control", "")]
    {
        fs::write(folder.path().join(file), text).unwrap();
    }
    fs::create_dir(folder.path().join(OWN)).unwrap();
    let own = folder.path().join(OWN).join("cgroup.procs");
    fs::write(own, format!("{}\n", std::process::id())).unwrap();
    folder
}

#[test]
fn a_folder_that_is_no_group_is_named() {
    let none = tempfile::tempdir().unwrap();
    let error = Groups::open(none.path()).unwrap_err();
    assert!(error.contains("cgroup.procs: No such file"), "{error}");
    assert!(error.contains("version 2"), "{error}");
}

#[test]
fn memory_is_passed_on_where_it_is() {
    let with = folder("cpu memory pids");
    Groups::open(with.path()).unwrap();
    let passed = fs::read_to_string(with.path().join("cgroup.subtree_control")).unwrap();
    assert_eq!(passed, "+memory");
    let without = folder("hugetlb");
    Groups::open(without.path()).unwrap();
    let passed = fs::read_to_string(without.path().join("cgroup.subtree_control")).unwrap();
    assert_eq!(passed, "");
}

#[test]
fn the_narrowest_limit_above_is_the_room() {
    let top = folder("memory");
    let below = top.path().join("below");
    fs::create_dir_all(below.join(OWN)).unwrap();
    for file in ["cgroup.procs", "cgroup.controllers", "cgroup.subtree_control"] {
        fs::write(below.join(file), "").unwrap();
    }
    let own = format!("{}\n", std::process::id());
    fs::write(below.join(OWN).join("cgroup.procs"), own).unwrap();
    let groups = Groups::open(&below).unwrap();
    assert_eq!(groups.room(), None);
    for (at, max, current) in [(&*below, "max", "5"), (top.path(), "100", "30")] {
        fs::write(at.join("memory.max"), max).unwrap();
        fs::write(at.join("memory.current"), current).unwrap();
    }
    assert_eq!(groups.room(), Some(70));
    assert_eq!(Groups::default().room(), None);
}

#[test]
fn without_groups_nobody_has_one() {
    assert!(Groups::default().of("mic", None).is_none());
    assert_eq!(Groups::default().clear(), 0);
    assert!(!Groups::default().sweep());
}
