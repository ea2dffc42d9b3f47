//! The files in which engines and the kubelet write down what a container is.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::engines::{Told, entries};

/// Where podman and CRI-O keep their containers, below `/`: in a folder for each storage driver
/// (`overlay-containers`, `vfs-containers`).
pub const STORAGE: &str = "var/lib/containers/storage";

/// The longest file that is read, bytes: the list of all of podman's containers.
const MAX_FILE: u64 = 8 << 20;

/// Entries of the kubelet's folder of logs that are looked at.
const MOST_LOGS: usize = 4096;

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what the engine writes.
    #[error("{path}: {source}; another version of the engine?")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
    /// It does not have this container.
    #[error("{path}: no container {id}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The container's id.
        id: String,
    },
}

impl RecordError {
    /// What kind of failure to read it was.
    #[must_use]
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Unreadable { source, .. } => Some(source.kind()),
            Self::Malformed { .. } | Self::Unknown { .. } => None,
        }
    }
}

/// An OCI bundle's `config.json`: of it the annotations alone.
#[derive(Debug, Deserialize)]
struct Bundle {
    annotations: Option<BTreeMap<String, String>>,
}

/// One of `containers.json`.
#[derive(Debug, Deserialize)]
struct Stored {
    id: String,
    names: Option<Vec<String>>,
    /// JSON in a string.
    metadata: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct StoredMetadata {
    name: Option<String>,
    image_name: Option<String>,
    pod_name: Option<String>,
}

/// A JSON file of at most 8 MiB.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T, RecordError> {
    let unreadable = |source| RecordError::Unreadable { path: path.into(), source };
    // A pipe in the file's place must not stop the thread.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut text = Vec::new();
    file.and_then(|file| file.take(MAX_FILE).read_to_end(&mut text)).map_err(unreadable)?;
    serde_json::from_slice(&text)
        .map_err(|source| RecordError::Malformed { path: path.into(), source })
}

fn annotations(path: &Path) -> Result<BTreeMap<String, String>, RecordError> {
    json::<Bundle>(path).map(|bundle| bundle.annotations.unwrap_or_default())
}

/// containerd: the bundle of a running task, in whichever namespace it is.
pub fn containerd(tasks: &Path, id: &str) -> Result<Told, RecordError> {
    let mut failed = None;
    // Kubernetes' namespace is the likeliest, and the folders come in no order.
    let mut namespaces: Vec<PathBuf> = entries(tasks).collect();
    namespaces.sort_by_key(|path| !path.ends_with("k8s.io"));
    for namespace in namespaces {
        match annotations(&namespace.join(id).join("config.json")) {
            Ok(mut found) => return Ok(containerd_told(&mut found)),
            Err(error) if error.kind() == Some(io::ErrorKind::NotFound) => {}
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| RecordError::Unknown { path: tasks.into(), id: id.into() }))
}

fn containerd_told(annotations: &mut BTreeMap<String, String>) -> Told {
    let mut take = |name: &str| annotations.remove(name);
    let mut cri = |name: &str| take(&format!("io.kubernetes.cri.{name}"));
    let (name, image) = (cri("container-name"), cri("image-name"));
    let (pod, namespace) = (cri("sandbox-name"), cri("sandbox-namespace"));
    let name = name.or_else(|| take("nerdctl/name"));
    Told { name, image, pod, namespace, ..Told::default() }
}

/// The folders of the storage drivers that were ever used.
fn drivers(storage: &Path) -> impl Iterator<Item = PathBuf> {
    let of_driver = |path: &PathBuf| path.as_os_str().as_encoded_bytes().ends_with(b"-containers");
    entries(storage).filter(of_driver)
}

/// podman: the list of all containers.
pub fn storage(storage: &Path, id: &str) -> Result<Told, RecordError> {
    let mut failed = None;
    let mut stored = None;
    for folder in drivers(storage) {
        match json::<Vec<Stored>>(&folder.join("containers.json")) {
            Ok(list) => stored = stored.or(list.into_iter().find(|stored| stored.id == id)),
            Err(error) => failed = Some(error),
        }
    }
    let Some(Stored { names, metadata, .. }) = stored else {
        let unknown = RecordError::Unknown { path: storage.into(), id: id.into() };
        return Err(failed.unwrap_or(unknown));
    };
    let metadata = metadata.and_then(|text| serde_json::from_str::<StoredMetadata>(&text).ok());
    let StoredMetadata { name, image_name, pod_name } = metadata.unwrap_or_default();
    let name = names.and_then(|names| names.into_iter().next()).or(name);
    Ok(Told { name, image: image_name, pod: pod_name, ..Told::default() })
}

/// CRI-O: the container's bundle, and its pod's for the pod's labels.
pub fn crio(storage: &Path, run: &Path, id: &str) -> Result<Told, RecordError> {
    let bundle = |id: &str| {
        let places = drivers(storage).chain(drivers(run));
        let mut bundles = places.map(|folder| folder.join(id).join("userdata/config.json"));
        let found = bundles.find(|bundle| bundle.exists());
        let unknown = || RecordError::Unknown { path: storage.into(), id: id.into() };
        annotations(&found.ok_or_else(unknown)?)
    };
    let mut own = bundle(id)?;
    let labels = |annotations: &BTreeMap<String, String>| {
        let text = annotations.get("io.kubernetes.cri-o.Labels")?;
        serde_json::from_str::<BTreeMap<String, String>>(text).ok()
    };
    let mut told = Told {
        name: own.remove("io.kubernetes.container.name"),
        image: own.remove("io.kubernetes.cri-o.ImageName"),
        pod: own.remove("io.kubernetes.pod.name"),
        namespace: own.remove("io.kubernetes.pod.namespace"),
        labels: labels(&own).unwrap_or_default(),
    };
    let sandbox = own.get("io.kubernetes.cri-o.SandboxID");
    let sandbox = sandbox.filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if let Some(pod) = sandbox.and_then(|id| bundle(id).ok()) {
        told.add_labels(labels(&pod).unwrap_or_default());
    }
    Ok(told)
}

/// The kubelet's link to a container's log, whichever engine there is:
/// `POD_NAMESPACE_CONTAINER-ID.log`.
pub fn kubelet_log(folder: &Path, id: &str) -> Option<Told> {
    let ending = format!("-{id}.log");
    let of_it = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(&ending).map(ToOwned::to_owned)
    };
    let name = fs::read_dir(folder).ok()?.flatten().take(MOST_LOGS).find_map(of_it)?;
    // None of the three names may hold an underscore.
    let mut parts = name.splitn(3, '_').map(ToOwned::to_owned);
    let (pod, namespace, container) = (parts.next()?, parts.next()?, parts.next()?);
    let (pod, namespace, name) = (Some(pod), Some(namespace), Some(container));
    Some(Told { name, pod, namespace, ..Told::default() })
}
