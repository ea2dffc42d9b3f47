//! Hosts of literal files: version 2, version 1 beside it, and containers.

use std::fs;
use std::time::Instant;

use super::*;

struct Host(tempfile::TempDir);

const V2: &str = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                  41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

impl Host {
    fn new(mountinfo: &str) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.write("proc/self/mountinfo", mountinfo);
        host
    }

    /// Version 2 with a service that has no quota, in a slice that has one.
    fn v2() -> Self {
        let host = Self::new(V2);
        host.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory\n");
        host.write("sys/fs/cgroup/a.slice/cpu.max", "20000 100000\n");
        host.throttle("sys/fs/cgroup/a.slice", 100, 40, 500_000);
        host.write("sys/fs/cgroup/a.slice/it.service/cpu.max", "max 100000\n");
        host.throttle("sys/fs/cgroup/a.slice/it.service", 0, 0, 0);
        host.write("proc/7/cgroup", "0::/a.slice/it.service\n");
        host
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn throttle(&self, group: &str, periods: u64, throttled: u64, usec: u64) {
        let text = format!(
            "usage_usec 1\nnr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec {usec}\n"
        );
        self.write(&format!("{group}/cpu.stat"), &text);
    }

    fn press(&self, group: &str, resource: &str, some: u64, full: u64) {
        let text = format!(
            "some avg10=0.00 avg60=0.00 avg300=0.00 total={some}\n\
             full avg10=0.00 avg60=0.00 avg300=0.00 total={full}\n"
        );
        self.write(&format!("sys/fs/cgroup{group}/{resource}.pressure"), &text);
        self.write(&format!("sys/fs/cgroup{group}/cgroup.type"), "domain\n");
    }

    fn reader(&self) -> CgroupReader {
        let root = self.0.path();
        CgroupReader::new(&Roots {
            proc: root.join("proc"),
            sys: root.join("sys"),
            dev: root.join("dev"),
        })
    }
}

fn member(class: &str, pid: u32, cpu: f64) -> Member<'_> {
    Member { class, pid, start_time: 1, cpu }
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_quota_above_the_group_is_told_with_its_path() {
    let host = Host::v2();
    let mut reader = host.reader();
    let members = [member("voice", 7, 0.5)];
    let first = reader.sample(0, &members);
    let throttling = first["voice"].throttling.clone().unwrap();
    assert_eq!((throttling.limited, throttling.total_ns), (1, 0), "what was before is not ours");

    host.throttle("sys/fs/cgroup/a.slice", 103, 42, 530_000);
    let told = reader.tick(SECOND / 4);
    assert_eq!(
        told,
        [Throttle {
            class: "voice".into(),
            path: "/a.slice".into(),
            from_ns: 0,
            to_ns: SECOND / 4,
            ns: 30_000_000,
        }]
    );
    assert_eq!(reader.tick(SECOND / 2), [], "nothing was held back since");
    host.throttle("sys/fs/cgroup/a.slice", 110, 43, 540_000);
    assert_eq!(reader.tick(SECOND).len(), 1);
    let second = reader.sample(SECOND, &members);
    let throttling = second["voice"].throttling.clone().unwrap();
    assert_eq!(
        throttling,
        Throttling {
            limited: 1,
            recent_ns: 40_000_000,
            total_ns: 40_000_000,
            periods: 10,
            throttled_periods: 3,
            worst: Some(GroupTime { path: "/a.slice".into(), ns: 40_000_000 }),
        }
    );
    let third = reader.sample(2 * SECOND, &members);
    let throttling = third["voice"].throttling.clone().unwrap();
    assert_eq!(
        (throttling.recent_ns, throttling.total_ns, throttling.worst),
        (0, 40_000_000, None)
    );
}

#[test]
fn a_group_that_two_classes_share_holds_both_back() {
    let host = Host::v2();
    host.write("proc/8/cgroup", "0::/a.slice\n");
    let mut reader = host.reader();
    reader.sample(0, &[member("voice", 7, 0.5), member("batch", 8, 0.1)]);
    host.throttle("sys/fs/cgroup/a.slice", 101, 41, 501_000);
    let classes: Vec<_> = reader.tick(SECOND).iter().map(|told| told.class.to_string()).collect();
    assert_eq!(classes, ["batch", "voice"]);
}

#[test]
fn a_quota_that_comes_later_is_found_and_one_that_goes_is_let_go() {
    let host = Host::v2();
    let service = "sys/fs/cgroup/a.slice/it.service";
    let mut reader = host.reader();
    let limited = |reader: &mut CgroupReader, at| {
        let told = reader.sample(at, &[member("voice", 7, 0.5)]);
        told["voice"].throttling.clone().unwrap().limited
    };
    assert_eq!(limited(&mut reader, 0), 1);
    host.write(&format!("{service}/cpu.max"), "5000 100000\n");
    assert_eq!(limited(&mut reader, SECOND), 2);
    host.write("sys/fs/cgroup/a.slice/cpu.max", "max 100000\n");
    assert_eq!(limited(&mut reader, 2 * SECOND), 1);
}

#[test]
fn version_1_counts_in_nanoseconds_and_has_its_own_path() {
    let host = Host::new(V1);
    host.write("proc/7/cgroup", "2:cpu,cpuacct:/limited/inner\n0::/\n");
    host.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    host.write("sys/fs/cgroup/cpu/limited/cpu.cfs_quota_us", "20000\n");
    host.write("sys/fs/cgroup/cpu/limited/inner/cpu.cfs_quota_us", "-1\n");
    let stat = |time: u64| format!("nr_periods 5\nnr_throttled 2\nthrottled_time {time}\n");
    host.write("sys/fs/cgroup/cpu/limited/cpu.stat", &stat(1_000));
    let mut reader = host.reader();
    let told = reader.sample(0, &[member("voice", 7, 0.5)]);
    assert_eq!((told["voice"].missing.as_deref(), told["voice"].cpu.as_ref()), (None, None));
    host.write("sys/fs/cgroup/cpu/limited/cpu.stat", &stat(9_000));
    let told = reader.tick(SECOND);
    assert_eq!((told[0].path.as_ref(), told[0].ns), ("/limited", 8_000));
}

#[test]
fn the_pressure_of_a_class_is_that_of_its_worst_group() {
    let host = Host::new(V2);
    for (pid, group) in [(7, "/a"), (8, "/b")] {
        host.write(&format!("proc/{pid}/cgroup"), &format!("0::{group}\n"));
        for resource in ["cpu", "memory", "io"] {
            host.press(group, resource, 0, 0);
        }
    }
    let members = [member("voice", 7, 0.5), member("voice", 8, 0.1)];
    let mut reader = host.reader();
    assert_eq!(reader.sample(0, &members)["voice"].cpu, None, "one reading has no interval");
    host.press("/a", "cpu", 100_000, 0);
    host.press("/b", "cpu", 250_000, 125_000);
    host.press("/a", "io", 500_000, 500_000);
    let told = reader.sample(SECOND, &members);
    let voice = &told["voice"];
    let worst = |some, full, path: &str| WorstStall { some, full: Some(full), path: path.into() };
    assert_eq!(voice.cpu, Some(worst(0.25, 0.125, "/b")));
    assert_eq!(voice.io, Some(worst(0.5, 0.5, "/a")));
    assert_eq!(voice.memory.as_ref().unwrap().some, 0.0);
    assert_eq!(voice.groups, 2);
    // Pressure of a group can be switched off; the others still count.
    fs::remove_file(host.0.path().join("sys/fs/cgroup/a/io.pressure")).unwrap();
    let told = reader.sample(2 * SECOND, &members);
    assert_eq!(told["voice"].io.as_ref().unwrap().path, "/b");
}

#[test]
fn the_busiest_groups_are_looked_at_and_the_rest_is_counted() {
    let host = Host::new(V2);
    host.write("sys/fs/cgroup/cgroup.controllers", "cpu\n");
    let mut members = Vec::new();
    for pid in 1..=40 {
        host.write(&format!("proc/{pid}/cgroup"), &format!("0::/g{pid}\n"));
        host.press(&format!("/g{pid}"), "cpu", 0, 0);
        members.push(member("voice", pid, f64::from(pid)));
    }
    let mut reader = host.reader();
    reader.sample(0, &members);
    host.press("/g8", "cpu", 900_000, 0);
    host.press("/g9", "cpu", 500_000, 0);
    let told = reader.sample(SECOND, &members);
    let voice = &told["voice"];
    assert_eq!((voice.groups, voice.skipped), (40, 8));
    assert_eq!(voice.cpu.as_ref().unwrap().path, "/g9", "the eight idlest are not looked at");
    assert!(voice.missing.as_deref().unwrap().contains("32 busiest of 40"));
}

#[test]
fn a_neighbour_of_the_agents_own_namespace_is_out_of_reach_and_said_so() {
    let host = Host::v2();
    host.write("proc/7/cgroup", "0::/../system.slice\n");
    let told = host.reader().sample(0, &[member("voice", 7, 0.5)]);
    let voice = &told["voice"];
    assert_eq!(voice.skipped, 1);
    assert!(voice.missing.as_deref().unwrap().contains("--cgroupns=host"), "{voice:?}");
}

#[test]
fn without_any_hierarchy_the_reason_is_said_and_nothing_is_zero() {
    let host = Host::new("");
    host.write("proc/7/cgroup", "0::/\n");
    let told = host.reader().sample(0, &[member("voice", 7, 0.5)]);
    let voice = &told["voice"];
    assert_eq!((&voice.throttling, &voice.cpu), (&None, &None));
    assert!(voice.missing.as_deref().unwrap().contains("mount -t cgroup2"), "{voice:?}");
}

#[test]
fn a_process_that_moved_or_whose_id_was_reused_is_found_in_its_new_group() {
    let host = Host::v2();
    let mut reader = host.reader();
    reader.sample(0, &[member("voice", 7, 0.5)]);
    host.write("proc/7/cgroup", "0::/b\n");
    host.press("/b", "cpu", 0, 0);
    let again = Member { start_time: 2, ..member("voice", 7, 0.5) };
    let told = reader.sample(SECOND, &[again]);
    assert_eq!(told["voice"].throttling.as_ref().unwrap().limited, 0);
    // The same process is looked at again after a while.
    host.write("proc/7/cgroup", "0::/a.slice\n");
    let limited = (2..30).map(|second| {
        reader.sample(second * SECOND, &[again])["voice"].throttling.clone().unwrap().limited
    });
    let seen: Vec<u32> = limited.collect();
    assert_eq!((seen[0], seen[27]), (0, 1), "{seen:?}");
}

#[test]
fn a_class_without_members_is_not_told_of() {
    let host = Host::v2();
    let mut reader = host.reader();
    assert!(reader.sample(0, &[]).is_empty());
    reader.sample(SECOND, &[member("voice", 7, 0.5)]);
    assert!(reader.sample(2 * SECOND, &[]).is_empty());
    assert_eq!(reader.tick(3 * SECOND), []);
}

/// Prints what the real files cost: `cargo test --release -p downbeatd --lib cgroups -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_32_groups() {
    let host = Host::new(V2);
    host.write("sys/fs/cgroup/cgroup.controllers", "cpu\n");
    let mut members = Vec::new();
    for pid in 1..=32 {
        host.write(&format!("proc/{pid}/cgroup"), &format!("0::/a.slice/g{pid}\n"));
        let group = format!("sys/fs/cgroup/a.slice/g{pid}");
        host.write(&format!("{group}/cpu.max"), "20000 100000\n");
        host.throttle(&group, 1, 1, 1);
        for resource in ["cpu", "memory", "io"] {
            host.press(&format!("/a.slice/g{pid}"), resource, 0, 0);
        }
        members.push(member("voice", pid, f64::from(pid)));
    }
    let mut reader = host.reader();
    reader.sample(0, &members);
    let mut costs = [Vec::new(), Vec::new()];
    for second in 1..=21 {
        let begun = Instant::now();
        reader.tick(second * SECOND);
        costs[0].push(begun.elapsed());
        let begun = Instant::now();
        reader.sample(second * SECOND, &members);
        costs[1].push(begun.elapsed());
    }
    for (what, costs) in ["tick", "sample"].into_iter().zip(&mut costs) {
        costs.sort_unstable();
        println!("{what} of 32 groups with quotas: median {:?}, worst {:?}", costs[10], costs[20]);
    }
}
