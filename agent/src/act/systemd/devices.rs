//! Limits by device, between the kernel's words (`8:0` and `rbps=5 wbps=max`) and systemd's, which
//! names a device by its path and has a property for each kind of limit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use crate::act::value::PerDevice;

/// What systemd says for "no limit".
const NONE: u64 = u64::MAX;

/// Pairs of a device's path and a limit, as systemd takes and shows them.
pub(super) type Pairs = Vec<(String, u64)>;

/// A setting's word in the kernel's file and systemd's property for it.
pub(super) type Properties = [(&'static str, &'static str)];

/// `io.max`.
pub(super) const MAX: &Properties = &[
    ("rbps", "IOReadBandwidthMax"),
    ("wbps", "IOWriteBandwidthMax"),
    ("riops", "IOReadIOPSMax"),
    ("wiops", "IOWriteIOPSMax"),
];

/// `io.latency`: microseconds in both.
pub(super) const LATENCY: &Properties = &[("target", "IODeviceLatencyTargetUSec")];

/// Names of block devices, from sysfs.
#[derive(Debug)]
pub(super) struct Devices {
    sys: PathBuf,
}

impl Devices {
    pub(super) fn new(sys: PathBuf) -> Self {
        Self { sys }
    }

    /// `8:0` → `/dev/sda`.
    fn path(&self, number: &str) -> String {
        let link = fs::read_link(self.sys.join("dev/block").join(number)).ok();
        let name = link.as_deref().and_then(|link| link.file_name()?.to_str());
        // A slash in a device's name is an exclamation mark in sysfs.
        name.map_or_else(
            || format!("/dev/block/{number}"),
            |it| format!("/dev/{}", it.replace('!', "/")),
        )
    }

    /// `/dev/sda` → `8:0`; a path that is no device of this host stays as it is.
    fn number(&self, path: &str) -> String {
        if let Some(number) = path.strip_prefix("/dev/block/") {
            return number.to_owned();
        }
        let name = path.strip_prefix("/dev/").unwrap_or(path).replace('/', "!");
        let number = fs::read_to_string(self.sys.join("class/block").join(name).join("dev"));
        number.map_or_else(|_| path.to_owned(), |number| number.trim().to_owned())
    }

    /// From what systemd shows for each property, in the order of `properties`.
    pub(super) fn limits_in(&self, properties: &Properties, shown: &[Pairs]) -> PerDevice {
        let mut limits: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (place, pairs) in shown.iter().enumerate() {
            for (path, limit) in pairs.iter().filter(|(_, limit)| *limit != NONE) {
                let of_device =
                    limits.entry(self.number(path)).or_insert_with(|| vec![NONE; properties.len()]);
                if let Some(known) = of_device.get_mut(place) {
                    *known = *limit;
                }
            }
        }
        let words = |limits: Vec<u64>| {
            let words = properties.iter().zip(limits).map(|((word, _), limit)| match limit {
                NONE => format!("{word}=max"),
                limit => format!("{word}={limit}"),
            });
            words.collect::<Vec<_>>().join(" ")
        };
        PerDevice(limits.into_iter().map(|(device, limits)| (device, words(limits))).collect())
    }

    /// What each property is to be set to, in the order of `properties`, so that the devices of
    /// `wanted` have what it says and others keep what they have in `now`. A property of which
    /// nothing is left becomes empty.
    pub(super) fn settings_for(
        &self,
        properties: &Properties,
        wanted: &PerDevice,
        now: &PerDevice,
    ) -> Vec<Pairs> {
        let devices: BTreeSet<&String> = now.0.keys().chain(wanted.0.keys()).collect();
        let of_property = |(word, _): &(&str, &str)| {
            let limit = |device: &&String| {
                let settings = wanted.0.get(*device).or_else(|| now.0.get(*device))?;
                let mut pairs = settings.split(' ').filter_map(|setting| setting.split_once('='));
                let (_, limit) = pairs.find(|(name, _)| name == word)?;
                Some((self.path(device), limit.parse().unwrap_or(NONE)))
            };
            let pairs: Pairs = devices.iter().filter_map(limit).collect();
            if pairs.iter().all(|(_, limit)| *limit == NONE) { Pairs::new() } else { pairs }
        };
        properties.iter().map(of_property).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_device(entries: &[(&str, &str)]) -> PerDevice {
        PerDevice(entries.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect())
    }

    fn pairs(entries: &[(&str, u64)]) -> Pairs {
        entries.iter().map(|(path, limit)| ((*path).to_owned(), *limit)).collect()
    }

    fn devices() -> (tempfile::TempDir, Devices) {
        let sys = tempfile::tempdir().unwrap();
        for (name, number) in [("sda", "8:0"), ("cciss!c0d0", "104:0")] {
            let folder = sys.path().join("class/block").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("dev"), format!("{number}\n")).unwrap();
            fs::create_dir_all(sys.path().join("dev/block")).unwrap();
            let link = sys.path().join("dev/block").join(number);
            std::os::unix::fs::symlink(format!("../../devices/{name}"), link).unwrap();
        }
        let devices = Devices::new(sys.path().to_owned());
        (sys, devices)
    }

    #[test]
    fn limits_go_to_systemd_and_come_back_the_same() {
        let (_sys, devices) = devices();
        let wanted = per_device(&[
            ("104:0", "rbps=max wbps=max riops=max wiops=40"),
            ("8:0", "rbps=1048576 wbps=max riops=max wiops=20"),
        ]);
        let sent = devices.settings_for(MAX, &wanted, &PerDevice::default());
        assert_eq!(sent[0], pairs(&[("/dev/cciss/c0d0", NONE), ("/dev/sda", 1_048_576)]));
        assert_eq!(sent[1], Pairs::new());
        assert_eq!(sent[3], pairs(&[("/dev/cciss/c0d0", 40), ("/dev/sda", 20)]));
        assert_eq!(devices.limits_in(MAX, &sent), wanted);
    }

    #[test]
    fn a_device_of_someone_else_keeps_its_limit_and_ours_goes() {
        let (_sys, devices) = devices();
        let now = per_device(&[("8:0", "target=75"), ("9:9", "target=20000")]);
        let back = per_device(&[("9:9", "target=max")]);
        let sent = devices.settings_for(LATENCY, &back, &now);
        assert_eq!(sent, [pairs(&[("/dev/sda", 75), ("/dev/block/9:9", NONE)])]);
        assert_eq!(devices.limits_in(LATENCY, &sent), per_device(&[("8:0", "target=75")]));
        let sent = devices.settings_for(LATENCY, &back, &per_device(&[("9:9", "target=20000")]));
        assert_eq!(sent, [Pairs::new()], "nothing is left");
    }
}
