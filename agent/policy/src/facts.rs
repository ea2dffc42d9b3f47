//! What a rule can look at.

/// One process as the rules see it. What could not be read is empty and matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Whether rules are for it at all.
    pub kind: ProcessKind,
    /// Path of the executable, without the ` (deleted)` that the kernel may add.
    pub exe: Option<String>,
    /// The main thread's name (at most 15 bytes).
    pub comm: String,
    /// Arguments joined by single spaces.
    pub cmdline: String,
    /// Real uid.
    pub uid: u32,
    /// Its user's name, where it has one.
    pub user: Option<String>,
    /// Real gid.
    pub gid: Option<u32>,
    /// Its group's name, where it has one.
    pub group: Option<String>,
    /// Path of its cgroup: v2's where it has one, else the v1 hierarchy named by systemd, else
    /// that of the cpu controller.
    pub cgroup: Option<String>,
    /// The innermost systemd unit in that path: `whisper.service`, `session-2.scope`.
    pub unit: Option<String>,
    /// The container that it is in.
    pub container: Option<ContainerFacts>,
    /// Its parent, if known.
    pub parent: Option<ParentFacts>,
    /// Those above its parent, nearest first; only where [`crate::Needs::ancestors`] asks.
    pub ancestors: Vec<ParentFacts>,
    /// Environment variables, as name and value; only those that [`crate::Needs::env`] names.
    pub env: Vec<(String, String)>,
    /// What it holds open; only where [`crate::Needs::uses`] asks.
    pub uses: Uses,
    /// File names of the libraries that it has mapped, without their folders
    /// (`libonnxruntime.so.1.17.0`); only where [`crate::Needs::maps`] asks.
    pub maps: Vec<String>,
}

/// Whether rules are for a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessKind {
    /// They are.
    #[default]
    Ordinary,
    /// A kernel thread: only for rules that name it by `comm`. Work of the whole host goes through
    /// these, and what waits for it waits with them.
    Kernel,
    /// The agent itself or process 1, which end or hold up everything: for no rule.
    KeptOut,
}

/// A process's parent, or one further up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentFacts {
    /// Path of the executable.
    pub exe: Option<String>,
    /// The main thread's name.
    pub comm: String,
}

/// A container. The id is known from the cgroup's path; the rest once its engine was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFacts {
    /// `docker`, `podman`, `containerd`, `cri-o`; empty where the path does not tell.
    pub engine: String,
    /// The whole id, 64 hexadecimal digits in most engines.
    pub id: String,
    /// The name that the engine gives it (in Kubernetes the container's name in its pod).
    pub name: Option<String>,
    /// The image as the engine names it: `docker.io/library/whisper:1.2`.
    pub image: Option<String>,
    /// Name of its Kubernetes pod.
    pub pod: Option<String>,
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// Labels of the container and of its pod, as name and value.
    pub labels: Vec<(String, String)>,
}

/// Kinds of devices that a process holds open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// A GPU's compute or render node.
    pub gpu: bool,
    /// A sound device or a sound server.
    pub sound: bool,
    /// A device that delivers pictures.
    pub camera: bool,
    /// A device that encodes or decodes video.
    pub encoder: bool,
    /// A device that measures, or the bus or port that one hangs on.
    pub sensor: bool,
}

/// One kind of device, as written in `uses = …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// [`Uses::gpu`].
    Gpu,
    /// [`Uses::sound`].
    Sound,
    /// [`Uses::camera`].
    Camera,
    /// [`Uses::encoder`].
    Encoder,
    /// [`Uses::sensor`].
    Sensor,
}

impl Uses {
    /// Whether it holds a device of this kind.
    #[must_use]
    pub fn has(self, kind: Use) -> bool {
        match kind {
            Use::Gpu => self.gpu,
            Use::Sound => self.sound,
            Use::Camera => self.camera,
            Use::Encoder => self.encoder,
            Use::Sensor => self.sensor,
        }
    }

    /// Whether it holds any.
    #[must_use]
    pub fn any(self) -> bool {
        Use::ALL.iter().any(|kind| self.has(*kind))
    }
}

impl Use {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Gpu, Self::Sound, Self::Camera, Self::Encoder, Self::Sensor];

    /// As written in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Sound => "sound",
            Self::Camera => "camera",
            Self::Encoder => "encoder",
            Self::Sensor => "sensor",
        }
    }
}
