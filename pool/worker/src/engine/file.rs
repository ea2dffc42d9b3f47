//! Finding and reading a model's file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

/// Its name in a version's folder.
const NAME: &str = "model.onnx";

/// A protobuf message's own limit; larger models keep their weights in files of their own.
const MOST: u64 = 2 << 30;

/// The file of a model, in the folder of its version or named itself.
pub fn model_file(path: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = path.context("no path was given; an ONNX model needs one")?;
    let looked = |path: &Path| fs::metadata(path).with_context(|| format!("{}", path.display()));
    let mut file = path.to_owned();
    let mut found = looked(path)?;
    if found.is_dir() {
        file.push(NAME);
        found = looked(&file).context("a version's folder holds its model under this name")?;
    }
    let shown = file.display();
    if !found.is_file() {
        bail!("{shown}: not a regular file");
    }
    if found.len() > MOST {
        bail!("{shown}: {} bytes; an ONNX file has 2 GiB at most", found.len());
    }
    Ok(file)
}

/// The contents of a file, if they have this checksum. Read, not mapped: what is loaded is then what
/// was compared, whatever becomes of the file.
pub fn contents(file: &Path, sha256: Option<[u8; 32]>) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(file).context("cannot be read")?;
    let found: [u8; 32] = Sha256::digest(&bytes).into();
    if sha256.is_some_and(|wanted| wanted != found) {
        bail!("it has changed since its checksum was compared; it is read again when it rests");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_its_model_under_one_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = format!("{:#}", model_file(Some(folder.path())).unwrap_err());
        assert!(error.contains("model.onnx: No such file"), "{error}");
        let file = folder.path().join(NAME);
        fs::write(&file, "").unwrap();
        assert_eq!(model_file(Some(folder.path())).unwrap(), file);
        assert_eq!(model_file(Some(&file)).unwrap(), file);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        assert!(model_file(None).is_err());
        let error = model_file(Some(Path::new("/dev/zero"))).unwrap_err().to_string();
        assert_eq!(error, "/dev/zero: not a regular file");
    }

    #[test]
    fn what_changed_since_it_was_compared_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(NAME);
        fs::write(&file, "first").unwrap();
        let sum = Some(Sha256::digest(b"first").into());
        assert_eq!(contents(&file, sum).unwrap(), b"first");
        fs::write(&file, "other").unwrap();
        let error = contents(&file, sum).unwrap_err().to_string();
        assert!(error.contains("changed since its checksum"), "{error}");
        assert_eq!(contents(&file, None).unwrap(), b"other");
    }
}
