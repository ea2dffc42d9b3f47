//! The maps of the loaded object.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::maps::{Map, MapError};

use super::ProbeError;
use super::shared::SharedWords;
use crate::roots::Roots;

/// Takes a map out of the object.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T, ProbeError> {
    let missing = || MapError::InvalidName { name: name.to_owned() };
    ebpf.take_map(name)
        .ok_or_else(missing)
        .and_then(T::try_from)
        .map_err(|error| ProbeError::failed(&format!("the BPF map {name}"), &error))
}

/// Takes an array out of the object and maps its first `words`.
pub(super) fn shared(ebpf: &mut Ebpf, name: &str, words: usize) -> Result<SharedWords, ProbeError> {
    let what = format!("mapping the BPF map {name}");
    let Some(Map::Array(array)) = ebpf.take_map(name) else {
        return Err(ProbeError::Failed { what, reason: "not an array of the object".into() });
    };
    // The mapping keeps the map alive without its descriptor.
    SharedWords::map(array.fd(), words).map_err(|error| ProbeError::failed(&what, &error))
}

/// Memory of all maps as the kernel accounts it.
pub(super) fn map_bytes(ebpf: &Ebpf, roots: &Roots) -> u64 {
    let of = |map: &Map| {
        let (Map::Array(map) | Map::HashMap(map) | Map::LruHashMap(map) | Map::RingBuf(map)) = map
        else {
            return None;
        };
        let fd = map.fd().as_fd().as_raw_fd();
        let text = fs::read_to_string(roots.proc.join(format!("self/fdinfo/{fd}"))).ok()?;
        text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok())
    };
    ebpf.maps().filter_map(|(_, map)| of(map)).sum()
}
