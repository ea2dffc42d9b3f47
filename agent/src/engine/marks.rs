//! Frames that programs mark themselves (docs/frames.md).

use downbeat_api::{Severity, ThreadJobs};

use super::notices::notice;
use super::{Engine, Policy};
use crate::model::frames::{Frames, MarkedProcess};
use crate::observe::frames::{FrameSocket, Mark};

/// The socket, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) socket: Option<FrameSocket>,
    frames: Frames,
    /// Not after a flood, until the next tick.
    pub(super) listens: bool,
    read: Vec<Mark>,
}

impl Marks {
    pub(super) fn new(socket: Option<FrameSocket>) -> Self {
        Self { socket, listens: true, ..Self::default() }
    }
}

impl Engine {
    /// Reads the marks that wait.
    pub(super) fn on_marks(&mut self) {
        let Marks { socket: Some(socket), frames, listens, read } = &mut self.marks else {
            return;
        };
        match socket.drain(read) {
            Ok(more) => *listens = more,
            Err(error) => {
                tracing::error!("the socket for marked frames: {error}; it is not read any more");
                self.marks.socket = None;
                let text = format!("marked frames are not read: {error}");
                let remedy = Some("restart downbeatd");
                self.notices.set("marks", vec![notice(Severity::Error, text, remedy)]);
                return;
            }
        }
        for mark in read.drain(..) {
            frames.mark(&mark);
        }
    }

    /// Says what of the marks came to nothing.
    fn note_lost_marks(&mut self) {
        let Some(socket) = &self.marks.socket else { return };
        let (read, paired) = (socket.counters(), self.marks.frames.counters());
        let counts = [
            (read.garbage, "lines that are no mark"),
            (read.refused + paired.refused, "marks too many"),
            (paired.orphan_ends, "ends of frames that had not begun"),
            (paired.unfinished, "frames that never ended"),
        ];
        let lost: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let said = if lost.is_empty() {
            Vec::new()
        } else {
            let text = format!("marked frames: {} since the start", lost.join(", "));
            vec![notice(Severity::Info, text, Some("see docs/frames.md for what a mark is"))]
        };
        self.notices.set("lost marks", said);
    }

    /// Marked frames since the last sample, by process.
    pub(super) fn marked_jobs(&mut self) -> Vec<ThreadJobs> {
        self.note_lost_marks();
        let (world, policy) = (&self.world, &self.policy);
        self.marks.frames.sample(|pid| {
            let process = world.get(pid)?;
            let classified = process.classified();
            let class = classified.and_then(|c| policy.set.classes.get(c.class));
            let deadline_ns = class.and_then(Policy::named_deadline_ns);
            Some(MarkedProcess {
                start_time: process.start_time,
                name: process.facts.comm.clone(),
                class: class.map(|class| class.name.clone()),
                deadline_ns,
            })
        })
    }
}
