//! Where a process's control group is on disk.
//!
//! `/proc/PID/cgroup` shows a path as the reader's cgroup namespace sees it, `/proc/self/mountinfo`
//! shows which part of a hierarchy is mounted where, in the same view. A group outside of the
//! namespace starts with `/..`; it can be reached only where a mount starts as far up, as in a pod
//! that has the host's `/sys/fs/cgroup`. How the groups between the mount's root and the
//! namespace's are called stands nowhere, so the agent looks for itself among the mount's groups.

use std::fs;
use std::path::{Path, PathBuf};

use crate::roots::Roots;

/// Groups that are looked at in search of the agent's own.
const SEARCHED: usize = 8192;

/// The hierarchies in which quotas and pressure are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// Version 2.
    pub v2: Vec<Mount>,
    /// Version 1's with the `cpu` controller.
    pub v1_cpu: Vec<Mount>,
    /// What this was made from.
    mountinfo: String,
}

/// One mounted hierarchy, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub point: PathBuf,
    /// Which group is there, as the reader's cgroup namespace sees it.
    pub root: String,
    /// Where the mount starts above the namespace: the names from there down to the namespace's
    /// root, where they are known.
    down: Vec<String>,
}

/// The groups of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Membership {
    /// In version 2.
    pub v2: Option<String>,
    /// In version 1's hierarchy with the `cpu` controller.
    pub v1_cpu: Option<String>,
}

impl Hierarchies {
    /// From `self/mountinfo` below `roots.proc`; a mount below `/sys` is looked up below
    /// `roots.sys`. Nothing is done where that file is as it was. `pid` is the reader's own id.
    pub fn refresh(&mut self, roots: &Roots, pid: u32) {
        let mounts = fs::read(roots.proc.join("self/mountinfo")).unwrap_or_default();
        let mounts = String::from_utf8_lossy(&mounts);
        if mounts == self.mountinfo {
            return;
        }
        *self = Self::parse(&mounts, roots);
        let own = fs::read_to_string(roots.proc.join("self/cgroup")).unwrap_or_default();
        let own = Membership::parse(&own);
        for (mounts, own) in [(&mut self.v2, own.v2), (&mut self.v1_cpu, own.v1_cpu)] {
            if let Some(own) = own {
                mounts.iter_mut().for_each(|mount| mount.look_for_namespace(&own, pid));
            }
        }
    }

    fn parse(mountinfo: &str, roots: &Roots) -> Self {
        let mut found = Self { mountinfo: mountinfo.to_owned(), ..Self::default() };
        for line in mountinfo.lines() {
            // `32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:7 - cgroup cgroup rw,cpu`
            let Some((before, behind)) = line.split_once(" - ") else {
                continue;
            };
            let mut before = before.split(' ').skip(3);
            let (Some(root), Some(point)) = (before.next(), before.next()) else {
                continue;
            };
            let mut behind = behind.split(' ');
            let (kind, options) = (behind.next(), behind.nth(1).unwrap_or_default());
            let mount = || Mount::new(below(roots, &unescape(point)), unescape(root));
            match kind {
                Some("cgroup2") => found.v2.push(mount()),
                Some("cgroup") if options.split(',').any(|option| option == "cpu") => {
                    found.v1_cpu.push(mount());
                }
                _ => {}
            }
        }
        found
    }
}

impl Membership {
    /// From the text of `/proc/PID/cgroup`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            // `0::/user.slice`, `2:cpu,cpuacct:/user.slice`; a path may hold colons itself.
            let mut fields = line.splitn(3, ':');
            let (Some(id), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            // The kernel says so of a group that was removed while the process was a zombie.
            let path = path.strip_suffix(" (deleted)").unwrap_or(path);
            if id == "0" && controllers.is_empty() {
                found.v2 = Some(path.to_owned());
            } else if controllers.split(',').any(|name| name == "cpu") {
                found.v1_cpu = Some(path.to_owned());
            }
        }
        found
    }
}

impl Mount {
    /// A mount of the group `root` at `point`.
    #[must_use]
    pub fn new(point: PathBuf, root: String) -> Self {
        Self { point, root, down: Vec::new() }
    }

    /// Finds out how the groups between the mount's root and the namespace's are called: below
    /// them, the group `own` holds the process `pid`.
    fn look_for_namespace(&mut self, own: &str, pid: u32) {
        let ((root_up, root_names), (up, own_names)) = (split(&self.root), split(own));
        if root_up == 0 || !root_names.is_empty() || up > 0 {
            return;
        }
        let mut level = vec![PathBuf::new()];
        for _ in 0..root_up {
            let inside = level.iter().flat_map(|group| groups_in(&self.point, group));
            level = inside.take(SEARCHED).collect();
        }
        let holds = |group: &PathBuf| {
            let folder = self.point.join(group).join(own_names.join("/"));
            let held = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            held.lines().any(|line| line.parse() == Ok(pid))
        };
        if let Some(found) = level.iter().find(|group| holds(group)) {
            let names = found.iter().map(|name| name.to_string_lossy().into_owned());
            self.down = names.collect();
        }
    }

    /// The folder of a group; nothing when it lies outside of this mount.
    #[must_use]
    pub fn folder(&self, group: &str) -> Option<PathBuf> {
        let (up, names) = split(group);
        let (root_up, root_names) = split(&self.root);
        if names.contains(&"..") {
            return None;
        }
        if up == root_up {
            let rest = names.strip_prefix(root_names.as_slice())?;
            return Some(self.point.join(rest.join("/")));
        }
        // So many of the names that lead down to the namespace are the group's as well.
        let shared = self.down.get(..root_up.checked_sub(up)?)?;
        let mut folder = self.point.clone();
        folder.extend(shared);
        folder.extend(names);
        Some(folder)
    }

    /// The group's path and those of all groups above it that are mounted here, innermost first.
    #[must_use]
    pub fn lineage(&self, group: &str) -> Vec<(String, PathBuf)> {
        let mut lineage = Vec::new();
        let mut path = group.trim_end_matches('/');
        loop {
            let shown = if path.is_empty() { "/" } else { path };
            let Some(folder) = self.folder(shown) else {
                break;
            };
            lineage.push((shown.to_owned(), folder));
            path = match path.rsplit_once('/') {
                Some((above, name)) if name != ".." => above,
                // Further up the names go on with one `/..` more, as far as the mount reaches.
                _ => break,
            };
        }
        let mut above = format!("{path}/..");
        while let Some(folder) = self.folder(&above) {
            lineage.push((above.clone(), folder));
            above.push_str("/..");
        }
        lineage
    }
}

/// The groups in a group, as paths from the mount.
fn groups_in(point: &Path, group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(point.join(group)) else {
        return Vec::new();
    };
    let is_group = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_group).map(|entry| group.join(entry.file_name())).collect()
}

/// How far up a path starts, and the names from there on.
fn split(path: &str) -> (usize, Vec<&str>) {
    let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let up = names.iter().take_while(|name| **name == "..").count();
    names.drain(..up);
    (up, names)
}

/// The kernel writes spaces, tabs, line ends and backslashes as three octal digits.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let octal = behind
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &behind[3..];
            }
            None => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn below(roots: &Roots, point: &str) -> PathBuf {
    match point.strip_prefix("/sys/") {
        Some(rest) => roots.sys.join(rest),
        None => Path::new(point).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mount(root: &str) -> Mount {
        Mount::new("/m".into(), root.into())
    }

    fn paths(lineage: &[(String, PathBuf)]) -> Vec<&str> {
        lineage.iter().map(|(path, _)| path.as_str()).collect()
    }

    #[test]
    fn both_versions_are_found_side_by_side() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n\
            50 31 0:38 /../.. /host\\040side rw,relatime - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::parse(text, &Roots { sys: "/fake".into(), ..Roots::default() });
        assert_eq!(found.v1_cpu, [Mount::new("/fake/fs/cgroup/cpu,cpuacct".into(), "/".into())]);
        assert_eq!(
            found.v2,
            [
                Mount::new("/fake/fs/cgroup/unified".into(), "/".into()),
                Mount::new("/host side".into(), "/../..".into()),
            ]
        );
    }

    #[test]
    fn a_process_has_a_group_in_each() {
        let text = "4:memory:/m\n2:cpu,cpuacct:/a:b\n1:name=systemd:/user.slice\n0::/x (deleted)\n";
        let found = Membership::parse(text);
        assert_eq!((found.v2.as_deref(), found.v1_cpu.as_deref()), (Some("/x"), Some("/a:b")));
    }

    #[test]
    fn a_group_is_found_below_the_part_that_is_mounted() {
        assert_eq!(mount("/").folder("/a/b"), Some("/m/a/b".into()));
        // A container of version 1 sees the host's path, and its own group mounted.
        assert_eq!(mount("/docker/1").folder("/docker/1/x"), Some("/m/x".into()));
        assert_eq!(mount("/docker/1").folder("/docker/12"), None);
        // A namespace's neighbour, and the host's mount seen from inside.
        assert_eq!(mount("/").folder("/../../system.slice"), None);
        assert_eq!(mount("/../..").folder("/../../system.slice"), Some("/m/system.slice".into()));
        assert_eq!(mount("/../..").folder("/../pod"), None, "the name between is not known");
        assert_eq!(mount("/").folder("/a/../../etc"), None);
    }

    #[test]
    fn all_groups_above_are_named_up_to_the_root() {
        assert_eq!(paths(&mount("/").lineage("/a/b/c")), ["/a/b/c", "/a/b", "/a", "/"]);
        assert_eq!(paths(&mount("/").lineage("/")), ["/"]);
        assert_eq!(paths(&mount("/a").lineage("/a/b")), ["/a/b", "/a"]);
        assert_eq!(
            paths(&mount("/../..").lineage("/../../s/u")),
            ["/../../s/u", "/../../s", "/../.."]
        );
        assert_eq!(paths(&mount("/").lineage("/../s")), [""; 0]);
    }

    #[test]
    fn a_pod_with_the_hosts_mount_reaches_its_neighbours_and_all_above() {
        let host = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = host.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let point = host.path().join("sys/fs/cgroup");
        write("sys/fs/cgroup/kubepods/agent/1/cgroup.procs", "41\n42\n");
        write("sys/fs/cgroup/kubepods/voice/2/cgroup.procs", "7\n");
        write("sys/fs/cgroup/system/ssh/x/cgroup.procs", "9\n");
        write(
            "proc/self/mountinfo",
            "50 31 0:38 /../../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        );
        write("proc/self/cgroup", "0::/\n");
        let roots = Roots {
            proc: host.path().join("proc"),
            sys: host.path().join("sys"),
            ..Roots::default()
        };
        let mut found = Hierarchies::default();
        found.refresh(&roots, 42);
        let mount = &found.v2[0];
        assert_eq!(mount.folder("/../../voice/2"), Some(point.join("kubepods/voice/2")));
        assert_eq!(mount.folder("/"), Some(point.join("kubepods/agent/1")));
        assert_eq!(mount.folder("/../../../system/ssh"), Some(point.join("system/ssh")));
        assert_eq!(mount.folder("/../../../../x"), None);
        let lineage = mount.lineage("/../../voice/2");
        assert_eq!(paths(&lineage), ["/../../voice/2", "/../../voice", "/../..", "/../../.."]);
        assert_eq!(lineage[2].1, point.join("kubepods"));
        assert_eq!(paths(&mount.lineage("/")), ["/", "/..", "/../..", "/../../.."]);
        // Under another id the agent is not found, and says of its neighbours that it sees none.
        let mut found = Hierarchies::default();
        found.refresh(&roots, 43);
        assert_eq!(found.v2[0].folder("/../../voice/2"), None);
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_mount(root in "(/|\\.\\.|a|b){0,6}", group in "(/|\\.\\.|a|b|c){0,8}") {
            let mount = mount(&root);
            if let Some(folder) = mount.folder(&group) {
                prop_assert!(folder.starts_with("/m"));
                prop_assert!(!folder.iter().any(|name| name == ".."));
            }
            prop_assert!(mount.lineage(&group).len() <= 16);
        }

        #[test]
        fn no_text_panics(text in "([0-9]| |-|/|cgroup2?|cpu|,|:|\\\\|\n|- )*") {
            let _ = Hierarchies::parse(&text, &Roots::default());
            let _ = Membership::parse(&text);
            let _ = unescape(&text);
        }
    }
}
