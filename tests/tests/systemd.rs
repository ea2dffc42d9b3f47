//! With a real systemd, which is the first process of a namespace of its own: its units are changed
//! by asking it, and nothing is left afterwards.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::{Place, die_with_this_thread, output_within};
use downbeat_tests::processes::wait_until;
use downbeat_tests::skip::{root_or_skip, skipped};
use nix::sys::signal::Signal;

const SYSTEMD: &str = "/lib/systemd/systemd";

/// A debug build, an emulator of nothing, and a machine that others use as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// In namespaces of its own: a version 2 hierarchy alone, an empty `/run`, and no unit but ours.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t proc proc /proc
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mkdir -p /run/dbus /run/systemd
export container=test SYSTEMD_UNIT_PATH="$1"
exec /lib/systemd/systemd --system --unit=test.target --show-status=no --log-target=console
"#;

const POLICY: &str = r#"
schema = 1

[class.shared]
tier = "background"
sched = "keep"
cpu = { weight = 50, max = "50%", burst = "10ms" }
memory = { high = "256MiB" }
io = { latency = "20ms", max = { read = "1MiB/s", write_ops = 500 } }

[class.adopted]
tier = "background"
sched = "keep"
adopt = true
freeze = true

[[rule]]
name = "adopted"
class = "adopted"
match = { cmdline = "*4712*" }

[[rule]]
name = "crowd"
class = "shared"
match = { exe = "{bin}/downbeat-load" }
"#;

fn units(bin: &Path, place: &Path) -> [(&'static str, String); 7] {
    let (bin, place) = (bin.display(), place.display());
    let service = |body: String| format!("[Unit]\nDefaultDependencies=no\n[Service]\n{body}\n");
    let agent = format!(
        "Delegate=yes\nKillMode=process\nExecStopPost={bin}/downbeat restore --run-dir {place}/run\n\
         ExecStart={bin}/downbeatd --no-bpf --policy-dir {place}/policy --pool-dir \
         {place}/pool.d --run-dir {place}/run --listen off\nStandardError=file:{place}/agent.log"
    );
    let bus = "Type=notify\nExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork \
               --nopidfile --systemd-activation";
    let target = "[Unit]\nDefaultDependencies=no\nWants=dbus.socket dbus.service crowd.service \
                  adopted.service\n";
    [
        ("test.target", target.to_owned()),
        ("shutdown.target", "[Unit]\nDefaultDependencies=no\n".into()),
        (
            "dbus.socket",
            "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n"
                .into(),
        ),
        ("dbus.service", service(bus.to_owned())),
        ("crowd.service", service(format!("ExecStart={bin}/downbeat-load crowd --live 600s"))),
        ("adopted.service", service("ExecStart=/usr/bin/sleep 4712".into())),
        ("downbeatd.service", service(agent)),
    ]
}

/// systemd in its namespaces; gone with everything in them when dropped.
struct Booted {
    unshare: Child,
    init: u32,
    group: PathBuf,
}

impl Booted {
    fn new(place: &Place, hierarchy: &Path) -> Result<Self> {
        let folder = place.path("units");
        fs::create_dir(&folder)?;
        for (name, text) in units(&place.path("bin"), place.dir()) {
            fs::write(folder.join(name), text)?;
        }
        let group = hierarchy.join(format!("downbeat-test-{}", std::process::id()));
        fs::create_dir(&group)?;
        let mut command = Command::new("unshare");
        command.args(["--cgroup", "--pid", "--fork", "--kill-child", "--mount", "--ipc", "--uts"]);
        command.args(["sh", "-c", BOOT, "boot"]).arg(&folder);
        let log = fs::File::create(place.path("systemd.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        die_with_this_thread(&mut command, Signal::SIGKILL);
        let procs = group.join("cgroup.procs");
        // SAFETY: between fork and exec, one open, write and close of a path made before.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
        let unshare = command.spawn().context("unshare")?;
        let mut booted = Self { init: 0, unshare, group };
        let children = format!("/proc/{0}/task/{0}/children", booted.unshare.id());
        let found = wait_until(PATIENCE, || {
            let text = fs::read_to_string(&children).unwrap_or_default();
            booted.init = text.trim().parse().unwrap_or(0);
            let name = fs::read_to_string(format!("/proc/{}/comm", booted.init));
            name.is_ok_and(|name| name.trim() == "systemd")
        });
        ensure!(found, "{}", fs::read_to_string(place.path("systemd.log"))?);
        let runs = |unit: &str| booted.show(unit, "ActiveState").is_ok_and(|it| it == "active");
        let up = wait_until(PATIENCE, || runs("crowd.service") && runs("dbus.service"));
        ensure!(up, "{}", fs::read_to_string(place.path("systemd.log"))?);
        Ok(booted)
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-m", "-p", "-C", "--"]).args(args);
        let output = output_within(&mut command, PATIENCE)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{args:?}: {}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn show(&self, unit: &str, property: &str) -> Result<String> {
        self.run(&["systemctl", "show", unit, "--value", "-p", property])
    }

    fn group_of(&self, unit: &str) -> Result<String> {
        let pid = self.show(unit, "MainPID")?;
        self.run(&["cat", &format!("/proc/{pid}/cgroup")])
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        wait_until(Duration::from_secs(10), || remove(&self.group).is_ok());
    }
}

/// A group with those below it, all of them empty.
fn remove(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn hierarchy() -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2) == Some(&"cgroup2"));
    Ok(found.and_then(|fields| fields.get(1).map(PathBuf::from)))
}

/// Whole disks, which limits by device are for.
fn has_disks() -> Result<bool> {
    let mut names = fs::read_dir("/sys/block")?.flatten().map(|entry| entry.file_name());
    Ok(names.any(|name| {
        let name = name.to_string_lossy();
        ["sd", "vd", "nvme", "xvd", "mmcblk"].iter().any(|kind| name.starts_with(kind))
    }))
}

/// What `explain` and `plan` say of a unit's process and of a process that was adopted.
fn explained_and_planned(booted: &Booted, place: &Place) -> Result<()> {
    let program = place.path("bin").join("downbeat").display().to_string();
    let run_dir = place.path("run").display().to_string();
    let downbeat = |args: &[&str]| -> Result<String> {
        let whole = [&[program.as_str()], args, &["--run-dir", run_dir.as_str()]].concat();
        booted.run(&whole)
    };
    let says = |said: &str, words: &[&str]| {
        words.iter().find(|word| !said.contains(*word)).map(|word| format!("no {word:?} in {said}"))
    };
    let crowd = booted.show("crowd.service", "MainPID")?;
    let adopted = booted.show("adopted.service", "MainPID")?;
    // systemd answers on a thread of its own: what it did is told a moment later.
    for (pid, words) in [
        (&crowd, ["unit crowd.service", "cpu.weight", "memory.high", "set"]),
        (
            &adopted,
            ["control group /system.slice/downbeatd.service/adopted", "freeze", "frozen", "set"],
        ),
    ] {
        let missing = || downbeat(&["explain", pid]).map(|said| says(&said, &words));
        let told = wait_until(PATIENCE, || matches!(missing(), Ok(None)));
        ensure!(told, "explain {pid}: {:?}", missing());
    }
    let settled = || downbeat(&["plan"]).map(|said| says(&said, &["Nothing would change"]));
    ensure!(wait_until(PATIENCE, || matches!(settled(), Ok(None))), "plan: {:?}", settled());
    let other = place.path("other.toml");
    let bin = place.path("bin").display().to_string();
    fs::write(&other, POLICY.replace("weight = 50", "weight = 70").replace("{bin}", &bin))?;
    let said = downbeat(&["plan", &other.display().to_string()])?;
    let missing = says(&said, &["unit crowd.service", "50", "70"]);
    ensure!(missing.is_none(), "plan of another policy: {missing:?}");
    Ok(())
}

#[test]
fn units_are_changed_by_asking_and_processes_adopted_and_all_goes_back() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let Some(hierarchy) = hierarchy()? else {
        skipped("no version 2 of control groups");
        return Ok(());
    };
    for program in [SYSTEMD, "/usr/bin/dbus-daemon", "/usr/bin/unshare"] {
        if !Path::new(program).exists() {
            skipped(&format!("needs {program}"));
            return Ok(());
        }
    }
    let place = Place::new()?;
    place.policy("50-test.toml", POLICY)?;
    let booted = Booted::new(&place, &hierarchy)?;
    let log = || fs::read_to_string(place.path("agent.log")).unwrap_or_default();
    let before = booted.group_of("adopted.service")?;

    let engaged = || {
        booted.show("crowd.service", "CPUWeight").is_ok_and(|weight| weight == "50")
            && booted.group_of("adopted.service").is_ok_and(|it| it.contains("downbeatd.service"))
    };
    let as_before = || -> Result<()> {
        for (property, wanted) in [
            ("CPUWeight", "[not set]"),
            ("CPUQuotaPerSecUSec", "infinity"),
            ("MemoryHigh", "infinity"),
            ("IOReadBandwidthMax", ""),
            ("IOWriteIOPSMax", ""),
            ("IODeviceLatencyTargetUSec", ""),
            ("DropInPaths", ""),
            ("NeedDaemonReload", "no"),
        ] {
            let found = booted.show("crowd.service", property)?;
            ensure!(found == wanted, "{property}: {found}\n{}", log());
        }
        let left = booted.run(&["find", "/run/systemd/system.control", "-type", "f"])?;
        ensure!(left.is_empty(), "left: {left}");
        let group = booted.group_of("adopted.service")?;
        ensure!(group == before, "{group}\n{}", log());
        Ok(())
    };

    booted.run(&["systemctl", "start", "downbeatd.service"])?;
    ensure!(wait_until(PATIENCE, engaged), "{}", log());
    ensure!(booted.show("crowd.service", "CPUQuotaPerSecUSec")? == "500ms");
    ensure!(booted.show("crowd.service", "MemoryHigh")? == "268435456");
    explained_and_planned(&booted, &place)?;
    if has_disks()? {
        for (property, limit) in
            [("IOReadBandwidthMax", "1048576"), ("IODeviceLatencyTargetUSec", "20ms")]
        {
            let found = || booted.show("crowd.service", property).unwrap_or_default();
            let there =
                wait_until(PATIENCE, || found().starts_with("/dev/") && found().contains(limit));
            ensure!(there, "{property}: {}\n{}", found(), log());
        }
    }
    booted.run(&["systemctl", "stop", "downbeatd.service"])?;
    as_before().context("after a stop")?;

    booted.run(&["systemctl", "start", "downbeatd.service"])?;
    ensure!(wait_until(PATIENCE, engaged), "{}", log());
    booted.run(&["systemctl", "kill", "-s", "KILL", "--kill-who=main", "downbeatd.service"])?;
    let dead = || booted.show("downbeatd.service", "ActiveState").is_ok_and(|it| it == "failed");
    ensure!(wait_until(PATIENCE, dead), "{}", log());
    as_before().context("after a kill")
}
