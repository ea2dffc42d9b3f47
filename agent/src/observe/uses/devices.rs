//! Which kinds of devices a process holds open, from the links in `/proc/PID/fd`.
//!
//! Only links are read: no device is opened, so a GPU that sleeps is not woken. What NVENC and NVDEC
//! do is not to be seen there, since they are reached through the same nodes as all of the GPU; a
//! program that encodes with them has `libnvidia-encode` mapped.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use downbeat_policy::Uses;
use nix::dir::Dir;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::Mode;

use crate::roots::Roots;

/// Descriptors of one process that are looked at: devices are opened early.
const MOST_DESCRIPTORS: usize = 1024;

/// Parts of a V4L2 device's name that say that it encodes or decodes from memory to memory, as the
/// drivers of boards name theirs (`bcm2835-codec-encode`, `rockchip,rk3568-vepu-enc`, `hantro-vpu`).
const CODECS: [&str; 14] = [
    "codec", "vicodec", "enc", "encode", "encoder", "dec", "decode", "decoder", "vpu", "vepu",
    "vdpu", "mfc", "cedrus", "wave5",
];

/// Reads links below a root.
#[derive(Debug)]
pub struct DeviceReader {
    proc: PathBuf,
    video4linux: PathBuf,
    /// Whether a video node is a codec, by its name, as far as it was met.
    codecs: HashMap<String, bool>,
}

impl DeviceReader {
    /// A reader below `roots`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self {
            proc: roots.proc.clone(),
            video4linux: roots.sys.join("class/video4linux"),
            codecs: HashMap::new(),
        }
    }

    /// What a process holds open; `sound` are the connections to sound servers.
    ///
    /// # Errors
    /// When the process is gone, or may not be looked at.
    pub fn read(&mut self, pid: u32, sound: &HashSet<u64>) -> io::Result<Uses> {
        let folder = self.proc.join(pid.to_string()).join("fd");
        let mut folder = Dir::open(&folder, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let names: Vec<_> = folder
            .iter()
            .flatten()
            .map(|entry| entry.file_name().to_owned())
            .filter(|name| !name.to_bytes().starts_with(b"."))
            .take(MOST_DESCRIPTORS)
            .collect();
        let mut uses = Uses::default();
        for name in names {
            // It may have been closed meanwhile.
            let Ok(target) = readlinkat(&folder, name.as_c_str()) else { continue };
            if let Some(target) = target.to_str() {
                self.add(&mut uses, target, sound);
            }
        }
        Ok(uses)
    }

    fn add(&mut self, uses: &mut Uses, target: &str, sound: &HashSet<u64>) {
        if let Some(inode) = target.strip_prefix("socket:[") {
            let inode = inode.strip_suffix(']').and_then(|inode| inode.parse().ok());
            uses.sound |= inode.is_some_and(|inode: u64| sound.contains(&inode));
        } else if let Some(device) = target.strip_prefix("/dev/") {
            if let Some(sub) = device.strip_prefix("snd/") {
                uses.sound |= is_stream(sub);
            } else if is_video(device) {
                let codec = self.is_codec(device);
                uses.encoder |= codec;
                uses.camera |= !codec;
            } else if is_board_codec(device) {
                uses.encoder = true;
            } else if is_sensor(device) {
                uses.sensor = true;
            } else {
                uses.gpu |= is_gpu(device);
            }
        }
    }

    fn is_codec(&mut self, device: &str) -> bool {
        if let Some(known) = self.codecs.get(device) {
            return *known;
        }
        let name = fs::read_to_string(self.video4linux.join(device).join("name"));
        let codec = name.is_ok_and(|name| is_codec_name(&name));
        self.codecs.insert(device.to_owned(), codec);
        codec
    }
}

/// A node through which sound or notes flow. Mixers and timers are held open by every volume
/// control.
fn is_stream(node: &str) -> bool {
    ["pcm", "midi", "hw", "compr", "seq"].iter().any(|kind| node.starts_with(kind))
}

fn is_video(device: &str) -> bool {
    device.strip_prefix("video").is_some_and(is_number)
}

/// NVIDIA's nodes for computing and drawing, those of the kernel's own drivers, AMD's for
/// computing, accelerators, and those of boards.
fn is_gpu(device: &str) -> bool {
    let node = |prefix| device.strip_prefix(prefix).is_some_and(is_number);
    node("nvidia")
        || node("dri/renderD")
        || node("accel/accel")
        || node("mali")
        || matches!(device, "kfd" | "dxg" | "nvidia-uvm" | "nvhost-gpu" | "nvgpu/igpu0/channel")
}

/// The encoders and decoders of NVIDIA's boards have nodes of their own.
fn is_board_codec(device: &str) -> bool {
    let name = device.strip_prefix("nvhost-").or_else(|| device.strip_prefix("v4l2-"));
    name.is_some_and(|name| {
        ["msenc", "nvenc", "nvdec", "nvjpg"].iter().any(|kind| name.starts_with(kind))
    })
}

/// Industrial I/O, data acquisition, and the buses, pins and ports that sensors hang on. Not the
/// input devices, which every desktop holds open, nor the board's own serial ports with their
/// consoles.
fn is_sensor(device: &str) -> bool {
    let kinds = ["iio:device", "i2c-", "gpiochip", "hidraw", "comedi", "ttyUSB", "ttyACM"];
    kinds.iter().any(|kind| device.strip_prefix(kind).is_some_and(is_number))
        || device.strip_prefix("spidev").is_some_and(|bus| bus.split('.').all(is_number))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_codec_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| CODECS.contains(&word) || word.starts_with("rkv"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The uses of a process with these links.
    fn uses_of(links: &[&str]) -> Uses {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("proc/42/fd");
        fs::create_dir_all(&folder).unwrap();
        for (number, link) in links.iter().enumerate() {
            symlink(link, folder.join(number.to_string())).unwrap();
        }
        for (device, name) in
            [("video0", "HD Pro Webcam C920"), ("video11", "bcm2835-codec-encode")]
        {
            let folder = root.path().join("sys/class/video4linux").join(device);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        }
        let roots = Roots {
            proc: root.path().join("proc"),
            sys: root.path().join("sys"),
            ..Roots::default()
        };
        DeviceReader::new(&roots).read(42, &HashSet::from([77])).unwrap()
    }

    #[test]
    fn devices_are_told_by_their_nodes() {
        let none = Uses::default();
        for (link, expected) in [
            ("/dev/nvidia0", Uses { gpu: true, ..none }),
            ("/dev/nvidia-uvm", Uses { gpu: true, ..none }),
            ("/dev/nvidiactl", none),
            ("/dev/dri/renderD128", Uses { gpu: true, ..none }),
            ("/dev/dri/card0", none),
            ("/dev/kfd", Uses { gpu: true, ..none }),
            ("/dev/snd/pcmC0D0p", Uses { sound: true, ..none }),
            ("/dev/snd/controlC0", none),
            ("/dev/video0", Uses { camera: true, ..none }),
            ("/dev/video11", Uses { encoder: true, ..none }),
            ("/dev/video3", Uses { camera: true, ..none }),
            ("/dev/nvhost-msenc", Uses { encoder: true, ..none }),
            ("/dev/iio:device0", Uses { sensor: true, ..none }),
            ("/dev/spidev0.1", Uses { sensor: true, ..none }),
            ("/dev/ttyUSB0", Uses { sensor: true, ..none }),
            ("/dev/ttyS0", none),
            ("/dev/input/event3", none),
            ("/dev/i2c", none),
            ("socket:[77]", Uses { sound: true, ..none }),
            ("socket:[78]", none),
            ("/home/ann/dev/video0", none),
            ("/dev/null", none),
        ] {
            assert_eq!(uses_of(&[link]), expected, "{link}");
        }
        let all = uses_of(&["/dev/null", "/dev/video0", "/dev/snd/seq", "/dev/dri/renderD129"]);
        assert_eq!(all, Uses { gpu: true, sound: true, camera: true, ..none });
    }

    #[test]
    fn a_camera_is_no_codec_whatever_it_is_called() {
        for (name, codec) in [
            ("HD Pro Webcam C920", false),
            ("Decklink Mini Recorder", false),
            ("OBS Virtual Camera", false),
            ("rockchip,rk3568-vepu-enc", true),
            ("qcom-venus-encoder", true),
            ("rkvdec", true),
            ("s5p-mfc-dec0", true),
            ("hantro-vpu-dec", true),
        ] {
            assert_eq!(is_codec_name(name), codec, "{name}");
        }
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let roots = Roots { proc: root.path().into(), ..Roots::default() };
        assert!(DeviceReader::new(&roots).read(42, &HashSet::new()).is_err());
    }
}
