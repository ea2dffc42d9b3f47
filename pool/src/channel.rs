//! The first words on a built-in worker's channel: it says who it is, is told its model, and says
//! when that is loaded. Only then is it ready.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use downbeat_link::{
    AsyncReceiver, AsyncSender, LinkError, Load, Loaded, Package, ToPool, ToWorker, VERSION,
    async_pool_end,
};

/// A worker with its model loaded, and the channel for its requests.
#[derive(Debug)]
pub struct Ready {
    /// To the worker.
    pub sender: AsyncSender<ToWorker<Package>>,
    /// From the worker.
    pub receiver: AsyncReceiver<ToPool<Package>>,
    /// What it says of its model.
    pub loaded: Loaded,
}

/// Why there is no ready worker.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// It will not go better the next time.
    Refused(String),
    /// The channel ended; the worker's own end says why.
    Ended,
}

/// Greets the worker at the other end of `socket` and has it load a model.
///
/// # Errors
/// See [`Failure`].
pub async fn load(socket: OwnedFd, load: Load) -> Result<Ready, Failure> {
    let wrong = |error: LinkError| match error {
        LinkError::Closed => Failure::Ended,
        other => Failure::Refused(format!("the channel to its worker: {other}")),
    };
    let (sender, mut receiver) = async_pool_end(socket).map_err(wrong)?;
    let (name, model) = (load.name.clone(), load.model);
    match receiver.receive().await.map_err(wrong)? {
        Some(ToPool::Hello(hello)) if hello.version == VERSION => {}
        Some(ToPool::Hello(hello)) => {
            return Err(Failure::Refused(format!(
                "its worker speaks version {} of the channel and this pool version {VERSION}; \
                 install both from one release",
                hello.version
            )));
        }
        Some(_) => return Err(Failure::Refused("its worker did not greet first".into())),
        None => return Err(Failure::Ended),
    }
    sender.send(&ToWorker::Load(load)).await.map_err(wrong)?;
    match receiver.receive().await.map_err(wrong)? {
        Some(ToPool::Loaded(loaded)) if loaded.model == model => {
            Ok(Ready { sender, receiver, loaded })
        }
        Some(ToPool::LoadFailed { reason, .. }) => {
            Err(Failure::Refused(format!("model `{name}` cannot be loaded: {reason}")))
        }
        Some(_) => Err(Failure::Refused(format!("its worker did not load `{name}` when told to"))),
        None => Err(Failure::Ended),
    }
}

/// The folder of a model's newest version: the highest whole number.
///
/// # Errors
/// Names the folder that is missing and the models that there are.
pub fn newest(models: &Path, name: &str) -> Result<(u32, PathBuf), String> {
    let folder = models.join(name);
    let entries = fs::read_dir(&folder).map_err(|error| {
        let names = folders(models);
        let near: Vec<_> = names.iter().map(String::as_str).collect();
        let hint = match crate::config::nearest(name, &near) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if names.is_empty() => {
                "put the model there, or name its folder with --models".into()
            }
            None => format!("the models there are {}", names.join(", ")),
        };
        format!("model `{name}`: {}: {error}; {hint}", folder.display())
    })?;
    entries
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse::<u32>().ok().filter(|n| *n > 0)?;
            entry.path().is_dir().then(|| (version, entry.path()))
        })
        .max_by_key(|(version, _)| *version)
        .ok_or_else(|| {
            format!(
                "model `{name}`: {} has no version; put its file at {}",
                folder.display(),
                folder.join("1/model.onnx").display()
            )
        })
}

fn folders(models: &Path) -> Vec<String> {
    let entries = fs::read_dir(models).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use downbeat_link::{Engine, Hello, ModelNumber, worker_end};

    fn glyphs() -> Load {
        Load {
            model: ModelNumber(1),
            name: "glyphs".into(),
            version: "1".into(),
            engine: Engine::Tract,
            path: None,
            threads: 1,
        }
    }

    /// Loads from a worker that says `words`, each after what it was told.
    fn answered(words: Vec<ToPool<Package>>) -> Result<Loaded, Failure> {
        let (pool, worker) = downbeat_link::pair().unwrap();
        let speaker = std::thread::spawn(move || {
            let (to_pool, mut from_pool) = worker_end(worker).unwrap();
            for (index, word) in words.iter().enumerate() {
                if index > 0 {
                    let told = from_pool.receive().unwrap();
                    assert_eq!(told, Some(ToWorker::Load(glyphs())));
                }
                to_pool.send(word).unwrap();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let result = runtime.block_on(load(pool, glyphs())).map(|ready| ready.loaded);
        speaker.join().unwrap();
        result
    }

    fn hello(version: u16) -> ToPool<Package> {
        ToPool::Hello(Hello { version, pid: 1, name: "w".into(), engines: vec![] })
    }

    #[test]
    fn a_worker_is_ready_when_its_model_is_loaded() {
        let loaded = Loaded {
            model: ModelNumber(1),
            engine: "tract 0.22".into(),
            inputs: vec![],
            outputs: vec![],
            batching: true,
            trial_ns: Some(1000),
        };
        let answer = answered(vec![hello(VERSION), ToPool::Loaded(loaded.clone())]);
        assert_eq!(answer, Ok(loaded));
    }

    #[test]
    fn whoever_says_something_else_is_not_ready() {
        let reason = "model.onnx: no graph".to_owned();
        let failed = ToPool::LoadFailed { model: ModelNumber(1), reason };
        let refusal = "model `glyphs` cannot be loaded: model.onnx: no graph";
        assert_eq!(answered(vec![hello(VERSION), failed]), Err(Failure::Refused(refusal.into())));
        assert!(matches!(answered(vec![hello(VERSION + 1)]), Err(Failure::Refused(_))));
        assert!(matches!(
            answered(vec![ToPool::Unloaded(ModelNumber(1))]),
            Err(Failure::Refused(_))
        ));
        assert_eq!(answered(vec![]), Err(Failure::Ended));
    }

    #[test]
    fn the_newest_version_is_the_highest_number() {
        let models = tempfile::tempdir().unwrap();
        for folder in ["glyphs/2", "glyphs/10", "glyphs/x", "glyphs/0", "empty"] {
            fs::create_dir_all(models.path().join(folder)).unwrap();
        }
        let (version, path) = newest(models.path(), "glyphs").unwrap();
        assert_eq!((version, path), (10, models.path().join("glyphs/10")));
        let error = newest(models.path(), "glyhps").unwrap_err();
        assert!(error.ends_with("did you mean \"glyphs\"?"), "{error}");
        let error = newest(models.path(), "empty").unwrap_err();
        assert!(error.contains("has no version; put its file at"), "{error}");
    }
}
