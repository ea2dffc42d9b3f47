//! A container's engine and id from the path of its control group.
//!
//! The path alone says them, with no question to anyone: every engine puts its id there, with the
//! cgroupfs driver as a folder's name and with the systemd driver as a scope's.

/// A program that runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Engine {
    /// Docker, or whoever speaks as it does.
    Docker,
    /// podman.
    Podman,
    /// containerd, alone (`ctr`, `nerdctl`) or below Kubernetes.
    Containerd,
    /// CRI-O.
    Crio,
}

impl Engine {
    /// Its name as rules write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::Crio => "cri-o",
        }
    }
}

/// A container as its control group names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerRef {
    /// Whose it is; absent where the path has an id and nothing else, as with Kubernetes' cgroupfs
    /// driver.
    pub engine: Option<Engine>,
    /// Its id: 64 hexadecimal digits.
    pub id: String,
    /// Kubernetes' uid of its pod, with dashes where it has them.
    pub pod_uid: Option<String>,
}

/// The lengths of an id: SHA-256 in hexadecimal digits.
const ID_DIGITS: usize = 64;

/// What stands before the id in a scope's or a folder's name. A monitor beside a container
/// (`libpod-conmon-`, `crio-conmon-`) has the container's id in its name too, and is not in it: what
/// follows these prefixes must be the id and nothing else.
const PREFIXES: [(&str, Engine); 5] = [
    ("docker-", Engine::Docker),
    ("libpod-", Engine::Podman),
    ("cri-containerd-", Engine::Containerd),
    ("nerdctl-", Engine::Containerd),
    ("crio-", Engine::Crio),
];

/// Folders whose children are one engine's containers, with its cgroupfs driver. containerd's is the
/// name of a namespace; these are the ones that come with its own clients.
const FOLDERS: [(&str, Engine); 6] = [
    ("docker", Engine::Docker),
    ("libpod_parent", Engine::Podman),
    ("moby", Engine::Docker),
    ("default", Engine::Containerd),
    ("k8s.io", Engine::Containerd),
    ("buildkit", Engine::Containerd),
];

/// The innermost container that a control group lies in: of a container in a container (kind,
/// Docker in Docker) the inner one, since its image says what runs there.
#[must_use]
pub fn container_of(cgroup: &str) -> Option<ContainerRef> {
    let mut parent = "";
    let mut found: Option<(Option<Engine>, &str)> = None;
    let mut pod_uid = None;
    for part in cgroup.split('/').filter(|part| !part.is_empty()) {
        // containerd with its own driver below a kubelet that uses systemd's:
        // `kubepods-pod….slice:cri-containerd:ID`, all in one name.
        for piece in part.split(':') {
            if let Some(uid) = pod_of(piece) {
                pod_uid = Some(uid);
            }
        }
        let own = named(part).or_else(|| joined(part)).or_else(|| {
            let engine = FOLDERS.iter().find(|(folder, _)| *folder == parent).map(|(_, of)| *of);
            is_id(part).then_some((engine, part))
        });
        if own.is_some() {
            found = own;
        }
        parent = part;
    }
    let (engine, id) = found?;
    Some(ContainerRef { engine, id: id.to_owned(), pod_uid })
}

/// `docker-ID.scope`, `libpod-ID`.
fn named(part: &str) -> Option<(Option<Engine>, &str)> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    PREFIXES.iter().find_map(|(prefix, engine)| {
        let id = name.strip_prefix(prefix)?;
        is_id(id).then_some((Some(*engine), id))
    })
}

/// `SLICE:PREFIX:ID`, what runc's systemd driver takes, where it was given to the other driver.
fn joined(part: &str) -> Option<(Option<Engine>, &str)> {
    let (before, id) = part.rsplit_once(':')?;
    let (_, prefix) = before.rsplit_once(':')?;
    let known = |(with_dash, _): &&(&str, Engine)| with_dash.strip_suffix('-') == Some(prefix);
    let engine = PREFIXES.iter().find(known).map(|(_, engine)| *engine);
    is_id(id).then_some((engine, id))
}

/// `pod0b1c…`, `kubepods-burstable-pod0b1c….slice`: systemd's names have underscores for dashes.
fn pod_of(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None => name.contains("kubepods").then(|| name.rsplit_once("-pod"))??.1,
    };
    let uid = uid.replace('_', "-");
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let others = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    // A pod from a file on the node has a hash for a uid, without dashes.
    (digits == 32 && others).then_some(uid)
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The systemd unit that a control group belongs to: the innermost service or scope, as
/// `systemctl status PID` tells it. Slices are no unit of a process.
#[must_use]
pub fn unit_of(cgroup: &str) -> Option<String> {
    let units = [".service", ".scope", ".socket", ".mount", ".swap"];
    let is_unit = |part: &&str| {
        units.iter().any(|suffix| part.strip_suffix(suffix).is_some_and(|name| !name.is_empty()))
    };
    let unit = cgroup.split('/').rfind(is_unit)?;
    // cg_unescape of systemd: a name that could be taken for a file of the kernel's has a `_`.
    Some(unit.strip_prefix('_').unwrap_or(unit).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OUTER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
    const POD: &str = "2f6a7c9e-1b3d-4e5f-8a90-b1c2d3e4f506";

    #[test]
    fn every_engine_is_told_by_the_shapes_of_its_drivers() {
        use Engine::{Containerd, Crio, Docker, Podman};
        let shapes: &[(&str, Option<Engine>, bool)] = &[
            // Docker: cgroupfs, systemd, rootless, and as the older shim has it in v1.
            ("/docker/ID", Some(Docker), false),
            ("/system.slice/docker-ID.scope", Some(Docker), false),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
                Some(Docker),
                false,
            ),
            ("/system.slice/docker-ID.scope/init", Some(Docker), false),
            ("/moby/ID", Some(Docker), false),
            // podman: systemd, split, in a pod of its own, rootless, cgroupfs.
            ("/machine.slice/libpod-ID.scope", Some(Podman), false),
            ("/machine.slice/libpod-ID.scope/container", Some(Podman), false),
            ("/machine.slice/machine-libpod_pod_OUTER.slice/libpod-ID.scope", Some(Podman), false),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                Some(Podman),
                false,
            ),
            ("/libpod_parent/libpod-ID", Some(Podman), false),
            ("/libpod_parent/OUTER/libpod-ID", Some(Podman), false),
            // containerd: its own clients.
            ("/default/ID", Some(Containerd), false),
            ("/system.slice/nerdctl-ID.scope", Some(Containerd), false),
            // Kubernetes over containerd: systemd, all in one name, cgroupfs (which names nobody).
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podP_OD.slice/\
                 cri-containerd-ID.scope",
                Some(Containerd),
                true,
            ),
            (
                "/system.slice/containerd.service/kubepods-besteffort-podP_OD.slice:cri-containerd:ID",
                Some(Containerd),
                true,
            ),
            ("/kubepods/burstable/podPOD/ID", None, true),
            ("/kubepods/podPOD/ID", None, true),
            // Kubernetes over Docker and CRI-O.
            ("/kubepods.slice/kubepods-podP_OD.slice/docker-ID.scope", Some(Docker), true),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podP_OD.slice/\
                 crio-ID.scope/container",
                Some(Crio),
                true,
            ),
            ("/kubepods/besteffort/podPOD/crio-ID", Some(Crio), true),
            // A node that is a container itself (kind), with both drivers; an agent in another
            // cgroup namespace.
            (
                "/system.slice/docker-OUTER.scope/kubelet.slice/kubelet-kubepods.slice/\
                 kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podP_OD.slice/\
                 cri-containerd-ID.scope",
                Some(Containerd),
                true,
            ),
            ("/docker/OUTER/kubelet/kubepods/burstable/podPOD/ID", None, true),
            ("/../../docker-ID.scope", Some(Docker), false),
        ];
        for (shape, engine, in_pod) in shapes {
            let path = shape
                .replace("P_OD", &POD.replace('-', "_"))
                .replace("POD", POD)
                .replace("OUTER", OUTER)
                .replace("ID", ID);
            let found = container_of(&path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((found.engine, found.id.as_str()), (*engine, ID), "{path}");
            assert_eq!(found.pod_uid.as_deref(), in_pod.then_some(POD), "{path}");
        }
    }

    #[test]
    fn a_pod_from_a_file_on_the_node_has_a_uid_without_dashes() {
        let uid = "9f86d081884c7d659a2feaa0c55ad015";
        let path = format!("/kubepods/burstable/pod{uid}/{ID}");
        assert_eq!(container_of(&path).unwrap().pod_uid.as_deref(), Some(uid));
    }

    #[test]
    fn monitors_and_ordinary_groups_are_no_containers() {
        let short = &ID[..12];
        for path in [
            "/".to_owned(),
            "/system.slice/docker.service".to_owned(),
            "/system.slice/containerd.service".to_owned(),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/kubepods.slice/crio-conmon-{ID}.scope"),
            format!("/docker/{short}"),
            format!("/system.slice/docker-{}.scope", ID.to_uppercase()),
            "/user.slice/user-1000.slice/session-2.scope".to_owned(),
            format!("/kubepods/burstable/pod{POD}"),
        ] {
            assert_eq!(container_of(&path), None, "{path}");
        }
    }

    #[test]
    fn a_unit_is_the_innermost_service_or_scope() {
        for (path, unit) in [
            ("/system.slice/whisper.service", Some("whisper.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/session.slice/pipewire.service",
                Some("pipewire.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.obs.slice/app-1.scope",
                Some("app-1.scope"),
            ),
            ("/system.slice/llama.service/payload", Some("llama.service")),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            ("/user.slice", None),
            ("/", None),
        ] {
            assert_eq!(unit_of(path).as_deref(), unit, "{path}");
        }
    }
}
