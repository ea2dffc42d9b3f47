//! Which processes come from one that the agent has changed, as the kernel notes it.
//! `ebpf/src/lineage.rs` has the other side.

use std::path::Path;

use aya::maps::{HashMap, Map, MapError};
use aya::programs::links::{FdLink, PinnedLink};
use downbeat_abi::Origin;

use super::Limit;
use super::pins::Pins;
use crate::roots::Roots;

/// The map's name where it is pinned.
pub(super) const MAP: &str = "lineage";

/// What is lost where nothing can be pinned.
const LOST: &str = "after a kill of the agent, children whose parents have ended keep what they \
                    inherited just before it or since";

/// The map and the programs of a running agent.
pub(super) struct Lineage {
    map: Map,
    links: Vec<(&'static str, FdLink)>,
    /// Removed at the stop, and kept by a kill.
    pinned: Option<(Pins, Vec<PinnedLink>)>,
}

impl Lineage {
    pub(super) fn new(map: Map, links: Vec<(&'static str, FdLink)>) -> Self {
        Self { map, links, pinned: None }
    }

    pub(super) fn origin(&self, pid: u32) -> Option<Origin> {
        origin_in(&self.map, pid)
    }

    /// From now on children of `pid` come from it, and not from whoever it comes from itself.
    pub(super) fn claim(&mut self, pid: u32) -> Result<(), MapError> {
        let mut map = HashMap::<_, u32, u64>::try_from(&mut self.map)?;
        map.insert(pid, Origin { pid, tid: 0 }.to_word(), 0)
    }

    /// Pins everything for the agent of `run_dir`, so that it outlives this process.
    pub(super) fn pin(&mut self, run_dir: &Path, roots: &Roots) -> Result<(), Limit> {
        let limit = |reason| Limit { feature: LOST.to_owned(), reason };
        let pins = Pins::make(run_dir, roots).map_err(|error| limit(error.to_string()))?;
        let mut held = Vec::new();
        let mut done = self.map.pin(pins.path(MAP));
        for (name, link) in self.links.drain(..) {
            if done.is_err() {
                break;
            }
            done = link.pin(pins.path(name)).map(|link| held.push(link));
        }
        if let Err(error) = done {
            let _ = pins.remove();
            return Err(limit(format!("{}: pinning there: {error}", pins.path("").display())));
        }
        self.pinned = Some((pins, held));
        Ok(())
    }

    /// Nothing is left that would outlive this process.
    pub(super) fn unpin(&mut self) -> std::io::Result<()> {
        self.pinned.take().map_or(Ok(()), |(pins, _)| pins.remove())
    }
}

pub(super) fn origin_in(map: &Map, pid: u32) -> Option<Origin> {
    let map = HashMap::<_, u32, u64>::try_from(map).ok()?;
    map.get(&pid, 0).ok().map(Origin::from_word)
}
