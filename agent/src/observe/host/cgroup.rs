//! Control groups: which hierarchies are mounted. They are recognised and never changed.

use std::path::{Path, PathBuf};

use downbeat_api::Finding;

use super::finding::{absent, limited, present};
use super::text;
use crate::roots::Roots;

/// The controllers that levers use.
const USED: [&str; 4] = ["cpu", "cpuset", "io", "memory"];

const REMEDY: &str =
    "boot with systemd.unified_cgroup_hierarchy=1 (or cgroup_no_v1=all without systemd)";

/// What is mounted.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    /// Where v2 is mounted, as the kernel names it.
    v2: Option<String>,
    /// Controllers that v2 offers.
    pub(super) v2_controllers: Vec<String>,
    /// Controllers that v1 hierarchies hold.
    v1_controllers: Vec<String>,
    /// The real-time budget file of this process's own group, when v1's cpu controller has one:
    /// that means RT_GROUP_SCHED.
    pub(super) rt_runtime: Option<PathBuf>,
}

impl Cgroups {
    /// From `self/mounts` and `self/cgroup` below `roots.proc`; a mount below `/sys` is looked up
    /// below `roots.sys`.
    pub(super) fn read(roots: &Roots) -> Self {
        let mut found = Self::default();
        let mounts = text(roots.proc.join("self/mounts")).unwrap_or_default();
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(point), Some(kind), Some(options)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            match kind {
                "cgroup2" if found.v2.is_none() => {
                    let file = below(roots, point).join("cgroup.controllers");
                    found.v2_controllers = text(file)
                        .unwrap_or_default()
                        .split_ascii_whitespace()
                        .map(str::to_owned)
                        .collect();
                    found.v2 = Some(point.to_owned());
                }
                "cgroup" => {
                    let controllers: Vec<&str> =
                        options.split(',').filter(|option| is_v1_controller(option)).collect();
                    if controllers.contains(&"cpu") {
                        found.rt_runtime = rt_runtime(roots, point);
                    }
                    found.v1_controllers.extend(controllers.into_iter().map(str::to_owned));
                }
                _ => {}
            }
        }
        found
    }

    /// Version 2 with its controllers, and what is missing.
    pub(super) fn finding(&self) -> Finding {
        let id = "cgroup2";
        let missing: Vec<&str> = USED
            .into_iter()
            .filter(|name| !self.v2_controllers.iter().any(|held| held == name))
            .collect();
        let Some(point) = &self.v2 else {
            if self.v1_controllers.is_empty() {
                return absent(
                    id,
                    "no cgroup is visible here: rules cannot match `cgroup`, and no class can have values of a group",
                    Some(
                        "mount -t cgroup2 none /sys/fs/cgroup, in a container the host's /sys/fs/cgroup",
                    ),
                );
            }
            let text = format!(
                "version 1 only ({}): it is left as it is, and no class can have values of a group",
                self.v1_controllers.join(" ")
            );
            return absent(id, text, Some(REMEDY));
        };
        if missing.is_empty() {
            return present(
                id,
                format!("version 2 at {point} with {}", self.v2_controllers.join(" ")),
            );
        }
        let held = if self.v1_controllers.is_empty() {
            String::new()
        } else {
            format!("; version 1 holds {}, and is left as it is", self.v1_controllers.join(" "))
        };
        limited(
            id,
            format!(
                "version 2 at {point} without {}{held}: classes can have none of their values",
                missing.join(" ")
            ),
            Some(REMEDY),
        )
    }
}

/// Whether a mount option of a v1 hierarchy names a controller.
fn is_v1_controller(option: &str) -> bool {
    const CONTROLLERS: [&str; 12] = [
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
    ];
    CONTROLLERS.contains(&option)
}

fn rt_runtime(roots: &Roots, point: &str) -> Option<PathBuf> {
    let groups = text(roots.proc.join("self/cgroup"))?;
    // `2:cpu,cpuacct:/user.slice`
    let own = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers.split(',').any(|name| name == "cpu").then(|| fields.next()).flatten()
    })?;
    let file = below(roots, point).join(own.trim_start_matches('/')).join("cpu.rt_runtime_us");
    file.exists().then_some(file)
}

fn below(roots: &Roots, point: &str) -> PathBuf {
    match point.strip_prefix("/sys/") {
        Some(rest) => roots.sys.join(rest),
        None => Path::new(point).to_owned(),
    }
}
