//! What goes when there is too much: expired work, background work, the oldest frame.

use std::sync::Arc;
use std::time::Duration;

use crate::edf::Entry;
use crate::offer::same_stream;
use crate::queue::Queue;
use crate::request::{Cause, Media, Ticket, brief};

impl Queue {
    /// Makes room for a newcomer in its model's full queue; says whether something went.
    pub(crate) fn make_room(&mut self, newcomer: &Entry) -> bool {
        let Some(model) = self.models.get(&newcomer.model) else {
            return false;
        };
        if newcomer.deadline.is_none() {
            return false;
        }
        // Of the client that has most of it, what came last: others keep their turn.
        let background = model
            .lane
            .background
            .values()
            .max_by_key(|of_client| of_client.len())
            .and_then(|of_client| of_client.values().max_by_key(|entry| entry.ticket))
            .filter(|entry| entry.sequence.is_none())
            .map(|entry| (entry.ticket, "background work gave way to work with a deadline"));
        let frame = || {
            (model.spec.media == Media::Video)
                .then(|| model.lane.urgent.values())?
                .filter(|frame| same_stream(frame, newcomer))
                .map(|frame| frame.ticket)
                .min()
                .map(|oldest| (oldest, "a newer frame of the same stream took its place"))
        };
        let Some((ticket, reason)) = background.or_else(frame) else {
            return false;
        };
        self.drop_waiting(ticket, Cause::Shed, reason.into(), None);
        true
    }

    /// Drops what waited beyond its deadline. A piece of an utterance that began stays, unless it
    /// is so late that the utterance is given up.
    pub(crate) fn drop_expired(&mut self, now: Duration) {
        let mut expired: Vec<(Ticket, Duration)> = Vec::new();
        let mut given_up = Vec::new();
        for (&id, model) in &self.models {
            for entry in model.lane.urgent.values().take_while(|e| e.key.deadline <= now) {
                let deadline = entry.deadline.unwrap_or(Duration::MAX);
                let Some(late) = now.checked_sub(deadline) else {
                    continue;
                };
                let sequence = entry.sequence.as_ref().map(|step| &step.id);
                if !self.is_protected(id, sequence) {
                    expired.push((entry.ticket, late));
                } else if late > self.limits.utterance_patience
                    && let Some(sequence) = sequence
                {
                    given_up.push((id, Arc::clone(sequence)));
                }
            }
        }
        for (ticket, late) in expired {
            let reason = format!("its deadline passed {} ago while it waited", brief(late));
            self.expire(ticket, Cause::Expired, reason);
        }
        for key in given_up {
            let reason = format!(
                "the utterance is more than {} behind and was given up",
                brief(self.limits.utterance_patience)
            );
            self.give_up_sequence(&key, Cause::Expired, &reason);
        }
    }

    /// Drops one; where it was to start an utterance, all of it that waits goes with it.
    pub(crate) fn expire(&mut self, ticket: Ticket, cause: Cause, reason: String) {
        let starts = self.starts_utterance(ticket);
        self.drop_waiting(ticket, cause, reason, None);
        if let Some(key) = starts {
            self.give_up_sequence(&key, cause, "the beginning of its utterance was dropped");
        }
    }
}
