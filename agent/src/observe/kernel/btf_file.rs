//! The file that tells the kernel's types: the kernel's own, one that was named, or one of those
//! that distributions ship for kernels that do not show theirs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection, ReadCache};

use super::ProbeError;
use crate::roots::Roots;

/// Where the kernel describes its own types, below `/sys`.
const KERNEL_BTF: &str = "kernel/btf/vmlinux";

/// Where distributions put the kernel's image with its types; `{}` is the kernel's release.
const SHIPPED: [&str; 8] = [
    "boot/vmlinux-{}",
    "lib/modules/{}/vmlinux-{}",
    "lib/modules/{}/vmlinux",
    "lib/modules/{}/build/vmlinux",
    "lib/modules/{}/kernel/vmlinux",
    "usr/lib/debug/boot/vmlinux-{}",
    "usr/lib/debug/boot/vmlinux-{}.debug",
    "usr/lib/debug/lib/modules/{}/vmlinux",
];

const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// The section of an ELF file that holds the types.
const SECTION: &str = ".BTF";

/// Types of ordinary kernels take 4 to 10 MB; a file that says more is none.
const MOST_BYTES: u64 = 256 * 1024 * 1024;

/// The kernel's types, and where they are from.
#[derive(Debug)]
pub(super) struct BtfFile {
    pub(super) path: PathBuf,
    /// BTF, from its header on.
    pub(super) bytes: Vec<u8>,
    /// The kernel itself shows them, so that it also knows the types of its tracepoints.
    pub(super) is_own: bool,
}

impl BtfFile {
    /// Reads the file that was named; else the kernel's own; else the first that is shipped for
    /// this release below `root`.
    ///
    /// # Errors
    /// [`ProbeError::NoBtf`] with the file that was named, or with the kernel's own.
    pub(super) fn find(
        named: Option<&Path>,
        roots: &Roots,
        root: &Path,
    ) -> Result<Self, ProbeError> {
        if let Some(path) = named {
            let path = path.to_path_buf();
            return match read(&path) {
                Ok(bytes) => Ok(Self { path, bytes, is_own: false }),
                Err(source) => Err(ProbeError::NoBtf { path, source }),
            };
        }
        let path = roots.sys.join(KERNEL_BTF);
        let source = match read(&path) {
            Ok(bytes) => return Ok(Self { path, bytes, is_own: true }),
            Err(error) => error,
        };
        if source.kind() == io::ErrorKind::NotFound
            && let Some(shipped) = shipped(&roots.proc, root)
        {
            return Ok(shipped);
        }
        Err(ProbeError::NoBtf { path, source })
    }
}

fn shipped(proc: &Path, root: &Path) -> Option<BtfFile> {
    let release = fs::read_to_string(proc.join("sys/kernel/osrelease")).ok()?;
    let candidates = SHIPPED.iter().map(|place| root.join(place.replace("{}", release.trim())));
    candidates.into_iter().find_map(|path| match read(&path) {
        Ok(bytes) => Some(BtfFile { path, bytes, is_own: false }),
        Err(error) => {
            // Most are not there; one that is there and of no use is worth a line.
            if error.kind() != io::ErrorKind::NotFound {
                tracing::info!("{}: no kernel types from there: {error}", path.display());
            }
            None
        }
    })
}

/// BTF as it is, or from an ELF file's section.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    file.by_ref().take(ELF_MAGIC.len() as u64).read_to_end(&mut head)?;
    if head == ELF_MAGIC {
        return section(file);
    }
    file.take(MOST_BYTES).read_to_end(&mut head)?;
    Ok(head)
}

/// Reads no more than the section and the tables that lead to it: such a file has a gigabyte.
fn section(file: File) -> io::Result<Vec<u8>> {
    let refused = |error| {
        let text = format!("an ELF file that cannot be read: {error}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let cache = ReadCache::new(file);
    let elf = object::File::parse(&cache).map_err(refused)?;
    let Some(section) = elf.section_by_name(SECTION) else {
        let text = format!("an ELF file without a section {SECTION}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    };
    if section.size() > MOST_BYTES {
        let text = format!("its section {SECTION} says that it has {} bytes", section.size());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(section.data().map_err(refused)?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE: &str = "6.1.0-9-test";

    fn written(folder: &Path, path: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn kernel_without_btf(folder: &Path) -> Roots {
        written(folder, "proc/sys/kernel/osrelease", format!("{RELEASE}\n").as_bytes());
        Roots { proc: folder.join("proc"), sys: folder.join("sys"), ..Roots::default() }
    }

    /// A small ELF file with this section, and nothing else to find.
    fn elf_with(name: &[u8], data: &[u8]) -> Vec<u8> {
        use object::write::Object;
        use object::{Architecture, BinaryFormat, Endianness, SectionKind};
        let mut elf = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let section = elf.add_section(Vec::new(), name.to_vec(), SectionKind::Other);
        elf.append_section_data(section, data, 1);
        elf.write().unwrap()
    }

    #[test]
    fn the_types_are_taken_out_of_a_shipped_image() {
        let folder = tempfile::tempdir().unwrap();
        let roots = kernel_without_btf(folder.path());
        // One of no use stands before it.
        written(folder.path(), &format!("boot/vmlinux-{RELEASE}"), &elf_with(b".text", b"code"));
        let image = format!("usr/lib/debug/boot/vmlinux-{RELEASE}");
        let image = written(folder.path(), &image, &elf_with(b".BTF", b"types"));
        let found = BtfFile::find(None, &roots, folder.path()).unwrap();
        assert_eq!((found.path, found.bytes, found.is_own), (image, b"types".to_vec(), false));
    }

    #[test]
    fn the_kernels_own_comes_before_a_shipped_one_and_a_named_one_before_both() {
        let folder = tempfile::tempdir().unwrap();
        let roots = kernel_without_btf(folder.path());
        let shipped = format!("boot/vmlinux-{RELEASE}");
        let shipped = written(folder.path(), &shipped, b"shipped");
        written(folder.path(), "sys/kernel/btf/vmlinux", b"own");
        let found = BtfFile::find(None, &roots, folder.path()).unwrap();
        assert_eq!((found.bytes, found.is_own), (b"own".to_vec(), true));
        let found = BtfFile::find(Some(&shipped), &roots, folder.path()).unwrap();
        assert_eq!((found.bytes, found.is_own), (b"shipped".to_vec(), false));
    }

    #[test]
    fn where_there_is_none_the_error_names_the_kernels_own_and_the_option() {
        let folder = tempfile::tempdir().unwrap();
        let roots = kernel_without_btf(folder.path());
        let error = BtfFile::find(None, &roots, folder.path()).unwrap_err().to_string();
        assert!(error.contains("sys/kernel/btf/vmlinux") && error.contains("--btf"), "{error}");
        let missing = folder.path().join("missing");
        let error = BtfFile::find(Some(&missing), &roots, folder.path()).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
