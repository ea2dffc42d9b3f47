//! The table of blame: read once a sample, and kept small.

use std::collections::HashMap;
use std::time::Duration;

use aya::Pod;
use aya::maps::{HashMap as BpfHashMap, MapData};
use downbeat_abi::BlameKey;

/// An entry that has not grown for so long makes room.
const KEEP: Duration = Duration::from_secs(60);

/// The key as aya must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(super) struct KeyValue(pub(super) BlameKey);

// SAFETY: `BlameKey` is `bytemuck::Pod`, which demands all that aya's does.
unsafe impl Pod for KeyValue {}

/// How long whom was waited for.
#[derive(Debug)]
pub(super) struct BlameTable {
    map: BpfHashMap<MapData, KeyValue, u64>,
    /// What each entry was when it last grew, and when that was.
    grown: HashMap<BlameKey, (u64, Duration)>,
}

impl BlameTable {
    pub(super) fn new(map: BpfHashMap<MapData, KeyValue, u64>) -> Self {
        Self { map, grown: HashMap::new() }
    }

    /// Everything, in nanoseconds since each entry was made. `now` is any clock that never goes
    /// back.
    pub(super) fn read(&mut self, now: Duration) -> Vec<(BlameKey, u64)> {
        // What changes while it is read is read again the next time.
        let entries: Vec<(BlameKey, u64)> =
            self.map.iter().flatten().map(|(KeyValue(key), ns)| (key, ns)).collect();
        for &(key, ns) in &entries {
            let last = self.grown.entry(key).or_insert((ns, now));
            if last.0 != ns {
                *last = (ns, now);
            } else if now.saturating_sub(last.1) >= KEEP {
                let _ = self.map.remove(&KeyValue(key));
                self.grown.remove(&key);
            }
        }
        entries
    }
}
