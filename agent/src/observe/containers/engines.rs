//! What each engine says of a container: over its socket, or in the files that it leaves.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use downbeat_policy::ContainerFacts;
use serde::Deserialize;

use super::http;
use super::path::{ContainerRef, Engine};
use super::records;

/// Labels that are kept of a container with its pod.
const MOST_LABELS: usize = 128;

/// Longest name, image or label that is kept, bytes.
const LONGEST: usize = 1024;

/// The folders of tasks of containerd: its own, and those of the Kubernetes distributions that bring
/// one along (k3s and RKE2, k0s, MicroK8s).
const CONTAINERD: [&str; 4] = [
    "run/containerd/io.containerd.runtime.v2.task",
    "run/k3s/containerd/io.containerd.runtime.v2.task",
    "run/k0s/containerd/io.containerd.runtime.v2.task",
    "var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task",
];

/// The links of the kubelet to its containers' logs.
const LOGS: &str = "var/log/containers";

/// Where engines are looked for: below one folder, `/` on a real host.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self::below("/")
    }
}

/// A container to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The container.
    pub container: ContainerRef,
    /// The user in whose slice it runs: a rootless engine has a socket for each user.
    pub user: Option<u32>,
}

impl Question {
    /// What the path of a control group asks.
    #[must_use]
    pub fn new(container: ContainerRef, cgroup: &str) -> Self {
        let user = cgroup
            .split('/')
            .find_map(|part| part.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok());
        Self { container, user }
    }
}

/// What was found out about a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Nothing where nobody knows anything.
    pub facts: Option<ContainerFacts>,
    /// Its own engine, or the engine's files, said so; else there may be more to know.
    pub by_engine: bool,
}

/// What a file or a socket said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub name: Option<String>,
    pub image: Option<String>,
    pub pod: Option<String>,
    pub namespace: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// The part of `GET /containers/ID/json` that matters here, as Docker and podman both have it, and
/// as Docker keeps it on disk.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspection {
    name: Option<String>,
    /// podman's own.
    image_name: Option<String>,
    /// podman's own: the id of its pod.
    pod: Option<String>,
    config: Option<InspectedConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    image: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

/// `GET /libpod/pods/ID/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedPod {
    name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl Places {
    /// Engines whose sockets and files are below `root` as they are below `/`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// What is there of the engines that may know a container: another number when a socket or a
    /// folder of theirs has come, gone or been made anew.
    #[must_use]
    pub fn mark(&self, question: &Question) -> u64 {
        let sockets = ["docker.sock", "podman/podman.sock"];
        let sockets = sockets.iter().flat_map(|name| self.sockets(name, question.user));
        let folders = CONTAINERD.iter().chain([&records::STORAGE, &LOGS]);
        let places = sockets.chain(folders.map(|folder| self.path(folder)));
        let mut mark = DefaultHasher::new();
        for place in places {
            std::fs::metadata(place).ok().map(|found| (found.dev(), found.ino())).hash(&mut mark);
        }
        mark.finish()
    }

    /// Everything that can be found out about a container. Waits for sockets and disks.
    pub async fn ask(&self, question: &Question) -> Answer {
        let ContainerRef { engine, id, pod_uid } = &question.container;
        // Without a name in the path it is Kubernetes over one of these.
        let candidates = match engine {
            Some(engine) => vec![*engine],
            None => vec![Engine::Containerd, Engine::Crio, Engine::Docker],
        };
        let mut found = None;
        for engine in candidates {
            if let Some(told) = self.ask_engine(engine, id, question.user).await {
                found = Some((engine, told));
                break;
            }
        }
        let by_engine = found.is_some();
        let (engine, mut told) = match found {
            Some((engine, told)) => (Some(engine), told),
            None => (*engine, Told::default()),
        };
        told.take_kubernetes_labels();
        if pod_uid.is_some() && (told.pod.is_none() || told.name.is_none()) {
            told.or(records::kubelet_log(&self.path(LOGS), id));
        }
        let facts = (told != Told::default()).then(|| told.facts(engine, id));
        Answer { facts, by_engine }
    }

    async fn ask_engine(&self, engine: Engine, id: &str, user: Option<u32>) -> Option<Told> {
        match engine {
            Engine::Docker => self.ask_docker(id, user).await,
            Engine::Podman => self.ask_podman(id, user).await,
            Engine::Containerd => self.containerd(id),
            Engine::Crio => self.crio(id),
        }
    }

    async fn ask_docker(&self, id: &str, user: Option<u32>) -> Option<Told> {
        for socket in self.sockets("docker.sock", user) {
            match http::get::<Inspection>(&socket, &format!("/containers/{id}/json")).await {
                Ok(inspection) => return Some(Told::from(inspection)),
                Err(error) => tracing::debug!("{error}"),
            }
        }
        let record = self.path("var/lib/docker/containers").join(id).join("config.v2.json");
        quiet(records::json::<Inspection>(&record)).map(Told::from)
    }

    async fn ask_podman(&self, id: &str, user: Option<u32>) -> Option<Told> {
        for socket in self.sockets("podman/podman.sock", user) {
            let path = format!("/v4.0.0/libpod/containers/{id}/json");
            let inspection: Inspection = match http::get(&socket, &path).await {
                Ok(inspection) => inspection,
                Err(error) => {
                    tracing::debug!("{error}");
                    continue;
                }
            };
            let pod = inspection.pod.clone().filter(|pod| is_plain(pod));
            let mut told = Told::from(inspection);
            if let Some(pod) = pod {
                let path = format!("/v4.0.0/libpod/pods/{pod}/json");
                match http::get::<InspectedPod>(&socket, &path).await {
                    Ok(pod) => {
                        told.pod = pod.name;
                        told.add_labels(pod.labels.unwrap_or_default());
                    }
                    Err(error) => tracing::debug!("{error}"),
                }
            }
            return Some(told);
        }
        quiet(records::storage(&self.path(records::STORAGE), id))
    }

    fn containerd(&self, id: &str) -> Option<Told> {
        CONTAINERD.iter().find_map(|tasks| quiet(records::containerd(&self.path(tasks), id)))
    }

    fn crio(&self, id: &str) -> Option<Told> {
        let storage = self.path(records::STORAGE);
        quiet(records::crio(&storage, &self.path("run/containers/storage"), id))
    }

    /// The system's socket, or the user's own where the container is in a user's slice.
    fn sockets(&self, name: &str, user: Option<u32>) -> Vec<PathBuf> {
        let of_user = user.map(|uid| self.path(&format!("run/user/{uid}/{name}")));
        of_user.into_iter().chain([self.path(&format!("run/{name}"))]).collect()
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }
}

/// What a record says. One that is not there is no news; one that cannot be read is.
fn quiet<T>(result: Result<T, records::RecordError>) -> Option<T> {
    match result {
        Ok(told) => Some(told),
        Err(error) => {
            if error.kind() != Some(io::ErrorKind::NotFound) {
                tracing::debug!("{error}");
            }
            None
        }
    }
}

/// Whether a text can stand in a path of a request as it is.
fn is_plain(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl From<Inspection> for Told {
    fn from(inspection: Inspection) -> Self {
        let Inspection { name, image_name, config, pod: _ } = inspection;
        let (image, labels) = config.map(|c| (c.image, c.labels)).unwrap_or_default();
        // Docker's names have a slash before them from the days of links.
        let name = name.map(|name| name.trim_start_matches('/').to_owned());
        let image = image_name.or(image);
        Self { name, image, labels: labels.unwrap_or_default(), ..Self::default() }
    }
}

impl Told {
    /// Kubernetes tells Docker and podman by labels what a container is.
    fn take_kubernetes_labels(&mut self) {
        let label = |name: &str| self.labels.get(&format!("io.kubernetes.{name}")).cloned();
        let (container, pod) = (label("container.name"), label("pod.name"));
        let namespace = label("pod.namespace");
        if container.is_some() {
            self.name = container;
        }
        self.pod = self.pod.take().or(pod);
        self.namespace = self.namespace.take().or(namespace);
    }

    /// Fills what is not known yet.
    fn or(&mut self, other: Option<Self>) {
        let Some(other) = other else { return };
        let Self { name, image, pod, namespace, labels } = other;
        self.name = self.name.take().or(name);
        self.image = self.image.take().or(image);
        self.pod = self.pod.take().or(pod);
        self.namespace = self.namespace.take().or(namespace);
        self.add_labels(labels);
    }

    /// A container's own label goes before its pod's of the same name.
    pub(super) fn add_labels(&mut self, labels: BTreeMap<String, String>) {
        for (name, value) in labels {
            self.labels.entry(name).or_insert(value);
        }
    }

    fn facts(self, engine: Option<Engine>, id: &str) -> ContainerFacts {
        let Self { name, image, pod, namespace, labels } = self;
        let kept = |text: Option<String>| text.filter(|t| !t.is_empty() && t.len() <= LONGEST);
        ContainerFacts {
            engine: engine.map_or("", Engine::name).to_owned(),
            id: id.to_owned(),
            name: kept(name),
            image: kept(image),
            pod: kept(pod),
            namespace: kept(namespace),
            labels: labels
                .into_iter()
                .filter(|(name, value)| name.len() <= LONGEST && value.len() <= LONGEST)
                .take(MOST_LABELS)
                .collect(),
        }
    }
}

/// A folder that a test or a host may lack.
pub(super) fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
