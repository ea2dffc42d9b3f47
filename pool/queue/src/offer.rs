//! A request comes: taken, given to a cheaper model, or refused, with a reason in words.

use std::sync::Arc;
use std::time::Duration;

use crate::admission::Forecast;
use crate::edf::{Entry, Key};
use crate::queue::Queue;
use crate::request::{Admitted, Cause, Media, ModelId, Offer, Order, Refusal, Ticket, brief};

/// A model that refuses by its own estimate alone is measured anew so often.
const PROBE_EACH: Duration = Duration::from_secs(1);
/// Later than any clock will say, and far enough from the end of what a time can be.
const NO_DEADLINE: Duration = Duration::from_secs(1 << 40);
/// The least that a client is told to wait.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// How it looks for one request on one model.
enum Outlook {
    Fits,
    /// Late by so much, or at the cost of somebody who was taken before.
    Late {
        by: Duration,
        own: Duration,
    },
    /// Its client has its share of what fits before the deadline.
    Share {
        own: Duration,
    },
}

impl Queue {
    /// Takes a request, or says why not. What it drives out comes from [`Queue::poll`].
    ///
    /// # Errors
    /// A [`Refusal`]; nothing of the request is kept.
    pub fn offer(&mut self, now: Duration, offer: Offer) -> Result<Admitted, Refusal> {
        let (model, client) = (offer.model, Arc::clone(&offer.client));
        if let Some(found) = self.models.get_mut(&model) {
            found.meter.arrived(now);
        }
        let result = self.consider(now, offer);
        if let Err(refusal) = &result {
            self.count(model, refusal.cause);
            if matches!(refusal.cause, Cause::Full | Cause::Late | Cause::ClientShare)
                && refusal.retry_after.is_some()
            {
                self.clients.refused(&client, now);
            }
        }
        result
    }

    fn consider(&mut self, now: Duration, offer: Offer) -> Result<Admitted, Refusal> {
        let Some(model) = self.models.get(&offer.model) else {
            return refuse(Cause::UnknownModel, "there is no such model".into(), None);
        };
        let name = model.spec.name.clone();
        let mut deadline = offer.deadline.or_else(|| Some(now + model.spec.deadline?));
        let mut offer = offer;
        if self.limits.order == Order::Arrival {
            // One deadline for all leaves priority, which is none, and arrival.
            (deadline, offer.priority) = (Some(NO_DEADLINE), 0);
        }
        if let Some(parent) = offer.parent {
            let Some(inherited) = self.deadline_of(parent) else {
                let reason = "the request on whose behalf it was made is over".into();
                return refuse(Cause::Expired, reason, None);
            };
            deadline = deadline.into_iter().chain(inherited).min();
        }
        if let Some(late) = deadline.and_then(|deadline| now.checked_sub(deadline)) {
            let reason = format!("its deadline was {} ago when it came", brief(late));
            return refuse(Cause::Expired, reason, None);
        }
        let mut entry = self.entry(offer, deadline);
        let continues = self.check_sequence(&entry, &name)?;
        let protected = continues
            && self.models.get(&entry.model).is_some_and(|m| m.spec.media == Media::Audio);
        self.check_room(&entry, protected, &name)?;
        if self.slots_of(entry.model) == 0 && !continues {
            self.check_cold_start(now, &entry, &name)?;
        } else if deadline.is_some() {
            self.check_time(now, &mut entry, protected, &name)?;
        }
        Ok(self.take(now, entry))
    }

    fn entry(&mut self, offer: Offer, deadline: Option<Duration>) -> Entry {
        let ticket = self.fresh_ticket();
        Entry {
            ticket,
            model: offer.model,
            client: offer.client,
            deadline,
            key: Key {
                deadline: deadline.unwrap_or(Duration::MAX),
                priority: offer.priority,
                ticket,
            },
            units: offer.units.max(1),
            bytes: offer.bytes,
            batch_key: offer.batch_key,
            sequence: offer.sequence,
            retried: false,
            probe: false,
        }
    }

    /// Whether it continues a sequence.
    fn check_sequence(&self, entry: &Entry, name: &str) -> Result<bool, Refusal> {
        let Some(step) = &entry.sequence else {
            return Ok(false);
        };
        let open = self.sequences.get(&(entry.model, Arc::clone(&step.id)));
        if step.start {
            return Ok(false);
        }
        if open.is_some_and(|state| !state.ending) {
            return Ok(true);
        }
        let reason = format!(
            "model `{name}` has no open sequence `{}`; it ended, went idle or lost its worker: \
             start it with `sequence_start`",
            step.id
        );
        refuse(Cause::Sequence, reason, None)
    }

    fn check_room(&mut self, entry: &Entry, protected: bool, name: &str) -> Result<(), Refusal> {
        let Some(model) = self.models.get(&entry.model) else {
            return Ok(());
        };
        let most = model.spec.max_queue.max(1);
        let wait = model.fit.expected(1).max(LEAST_WAIT);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a part of a bound that fits"
        )]
        let share = ((most as f64 * self.limits.client_share).ceil() as usize).clamp(1, most);
        let own = model.lane.len_of(&entry.client);
        if own >= share && !protected {
            let reason = format!(
                "{own} requests of this client wait for model `{name}`: its share of {most}"
            );
            return refuse(Cause::ClientShare, reason, Some(wait));
        }
        while self.models.get(&entry.model).is_some_and(|m| m.lane.len() >= most) {
            if !self.make_room(entry) {
                // An utterance that began may go beyond the bound: as far as its own share.
                if protected && own < share {
                    break;
                }
                let reason = format!("{most} requests wait for model `{name}`: its queue is full");
                return refuse(Cause::Full, reason, Some(wait));
            }
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a part of a bound that fits"
        )]
        let share = (self.limits.bytes as f64 * self.limits.client_share) as u64;
        let own = self.clients.get(&entry.client).map_or(0, |client| client.bytes);
        if own > 0 && own.saturating_add(entry.bytes) > share && !protected {
            let reason = format!(
                "the requests of this client that wait hold {} MiB: its share is {}",
                own >> 20,
                share >> 20
            );
            return refuse(Cause::ClientShare, reason, Some(wait));
        }
        if self.bytes.saturating_add(entry.bytes) > self.limits.bytes {
            let reason = format!(
                "the requests that wait hold {} MiB, of {} that they may",
                self.bytes >> 20,
                self.limits.bytes >> 20
            );
            return refuse(Cause::Full, reason, Some(wait));
        }
        Ok(())
    }

    /// There is no worker: background work waits for one; so does what has the time.
    fn check_cold_start(&self, now: Duration, entry: &Entry, name: &str) -> Result<(), Refusal> {
        let (Some(model), Some(deadline)) = (self.models.get(&entry.model), entry.deadline) else {
            return Ok(());
        };
        let Some(start) = model.spec.cold_start else {
            let reason = format!("model `{name}` has no worker that is ready");
            return refuse(Cause::Unavailable, reason, Some(Duration::from_secs(1)));
        };
        if now + start + model.fit.cautious(entry.units) <= deadline {
            return Ok(());
        }
        let reason = format!(
            "model `{name}` has no worker; one comes up in {}, after the deadline",
            brief(start)
        );
        refuse(Cause::Unavailable, reason, Some(start))
    }

    fn check_time(
        &mut self,
        now: Duration,
        entry: &mut Entry,
        protected: bool,
        name: &str,
    ) -> Result<(), Refusal> {
        let starts = entry.sequence.as_ref().is_some_and(|step| step.start);
        let audio = self.models.get(&entry.model).is_some_and(|m| m.spec.media == Media::Audio);
        if starts && audio && self.too_many_utterances(now, entry.model) {
            let reason =
                format!("model `{name}` has as many utterances open as its workers keep up with");
            return refuse(Cause::Full, reason, Some(Duration::from_secs(1)));
        }
        let outlook = self.outlook(now, entry, &[]);
        if matches!(outlook, Outlook::Fits) {
            return Ok(());
        }
        if protected {
            for ticket in self.video_to_give_up(now, entry) {
                let reason = "an older frame gave way to an utterance that began".into();
                self.drop_waiting(ticket, Cause::Shed, reason, None);
            }
            return Ok(());
        }
        if self.may_probe(now, entry.model) {
            entry.probe = true;
            return Ok(());
        }
        // What comes of a sequence that is not over asks for the model that it began with.
        let whole = entry.sequence.as_ref().is_none_or(|step| step.start && step.end);
        if whole && self.degrade(now, entry) {
            return Ok(());
        }
        let older = self.older_frames_to_give_up(now, entry);
        if !older.is_empty() {
            for ticket in older {
                let reason = "a newer frame of the same stream took its place".into();
                self.drop_waiting(ticket, Cause::Shed, reason, None);
            }
            return Ok(());
        }
        let slack = entry.deadline.unwrap_or_default().saturating_sub(now);
        match outlook {
            Outlook::Share { own } => {
                let reason = format!(
                    "this client's work ahead of it takes {}: its share of the {} to the deadline \
                     while others are refused",
                    brief(own),
                    brief(slack)
                );
                refuse(Cause::ClientShare, reason, Some(own.max(LEAST_WAIT)))
            }
            Outlook::Late { by, own } if own > slack => {
                let reason = format!(
                    "model `{name}` takes {} and the deadline is in {}: late by {} even without a \
                     queue",
                    brief(own),
                    brief(slack),
                    brief(by)
                );
                refuse(Cause::Late, reason, None)
            }
            Outlook::Late { by, .. } => {
                let reason = format!(
                    "with the work ahead of it on model `{name}` it would be {} late for its \
                     deadline in {}",
                    brief(by),
                    brief(slack)
                );
                refuse(Cause::Late, reason, Some(by.max(LEAST_WAIT)))
            }
            Outlook::Fits => Ok(()),
        }
    }

    fn outlook(&self, now: Duration, entry: &Entry, without: &[Ticket]) -> Outlook {
        let deadline = entry.deadline.unwrap_or(Duration::MAX);
        let forecast = self.forecast(now, entry.model, Some(entry), without);
        let own = self
            .models
            .get(&entry.model)
            .map_or(Duration::ZERO, |m| m.fit.cautious(entry.units) + self.run_queue_delay);
        let Some(end) = forecast.end else {
            return Outlook::Late { by: own, own };
        };
        if end > deadline {
            return Outlook::Late { by: end - deadline, own };
        }
        if let Some(by) = self.newly_late(now, entry, without, &forecast) {
            return Outlook::Late { by, own };
        }
        if !forecast.alone
            && let Some(competitors) = self.clients.competitors(&entry.client, now)
        {
            #[expect(clippy::cast_precision_loss, reason = "a few at most")]
            let share = self.limits.client_share.min(1.0 / competitors as f64);
            #[expect(clippy::cast_precision_loss, reason = "a few at most")]
            let room = deadline.saturating_sub(now).as_secs_f64() * forecast.slots as f64 * share;
            if forecast.own_work.as_secs_f64() > room {
                return Outlook::Share { own: forecast.own_work };
            }
        }
        Outlook::Fits
    }

    /// Whether the newcomer makes somebody late who would be in time without it.
    fn newly_late(
        &self,
        now: Duration,
        entry: &Entry,
        without: &[Ticket],
        forecast: &Forecast,
    ) -> Option<Duration> {
        if forecast.late.is_empty() {
            return None;
        }
        let before = self.forecast(now, entry.model, None, without);
        let victim = forecast.late.iter().any(|ticket| !before.late.contains(ticket));
        victim.then(|| {
            self.models
                .get(&entry.model)
                .map_or(LEAST_WAIT, |model| model.fit.expected(entry.units))
        })
    }

    /// Whether a request that the estimate speaks against is let in to measure anew: its workers
    /// have nothing to do, so it hurts nobody.
    fn may_probe(&mut self, now: Duration, id: ModelId) -> bool {
        let idle = self
            .workers
            .values()
            .any(|w| !w.draining && w.jobs.is_empty() && w.spec.models.contains(&id));
        let Some(model) = self.models.get_mut(&id) else {
            return false;
        };
        if !idle || model.lane.len() > 0 || model.measured + PROBE_EACH > now {
            return false;
        }
        model.measured = now;
        true
    }

    /// Gives the request to a cheaper model where that is in time.
    fn degrade(&self, now: Duration, entry: &mut Entry) -> bool {
        let asked = entry.model;
        let mut tried = vec![asked];
        while let Some(cheaper) = self.models.get(&entry.model).and_then(|m| m.spec.cheaper) {
            if tried.contains(&cheaper) || !self.models.contains_key(&cheaper) {
                break;
            }
            tried.push(cheaper);
            entry.model = cheaper;
            let room = self.models.get(&cheaper).is_some_and(|m| m.lane.len() < m.spec.max_queue);
            if room
                && self.slots_of(cheaper) > 0
                && matches!(self.outlook(now, entry, &[]), Outlook::Fits)
            {
                return true;
            }
        }
        entry.model = asked;
        false
    }

    /// The oldest frames of the newcomer's own stream, as many as must go for it to be in time;
    /// none where that does not help.
    fn older_frames_to_give_up(&self, now: Duration, entry: &Entry) -> Vec<Ticket> {
        let own = self.frames(entry.model, |frame| same_stream(frame, entry));
        self.enough(now, entry, &own)
    }

    /// The oldest frames of any stream that waits for the newcomer's workers.
    fn video_to_give_up(&self, now: Duration, entry: &Entry) -> Vec<Ticket> {
        let Some(component) = self.components.get(&entry.model) else {
            return Vec::new();
        };
        let mut frames: Vec<_> =
            component.models.iter().flat_map(|&id| self.frames(id, |_| true)).collect();
        frames.sort_unstable();
        self.enough(now, entry, &frames)
    }

    fn frames(&self, id: ModelId, of: impl Fn(&Entry) -> bool) -> Vec<Ticket> {
        let Some(model) = self.models.get(&id).filter(|m| m.spec.media == Media::Video) else {
            return Vec::new();
        };
        let mut frames: Vec<_> =
            model.lane.urgent.values().filter(|frame| of(frame)).map(|f| f.ticket).collect();
        frames.sort_unstable();
        frames
    }

    fn enough(&self, now: Duration, entry: &Entry, oldest_first: &[Ticket]) -> Vec<Ticket> {
        (1..=oldest_first.len())
            .map(|count| &oldest_first[..count])
            .find(|without| matches!(self.outlook(now, entry, without), Outlook::Fits))
            .map(<[_]>::to_vec)
            .unwrap_or_default()
    }

    fn take(&mut self, now: Duration, mut entry: Entry) -> Admitted {
        if let Some(step) = &mut entry.sequence {
            // All that came before it may have given way to it.
            step.start |= !self.sequences.contains_key(&(entry.model, Arc::clone(&step.id)));
        }
        let admitted =
            Admitted { ticket: entry.ticket, model: entry.model, deadline: entry.deadline };
        let sequence = entry.sequence.clone();
        let slack = entry.deadline.map(|deadline| deadline.saturating_sub(now));
        let units = entry.units;
        self.put_in(now, entry);
        if let Some(step) = sequence {
            let key = (admitted.model, Arc::clone(&step.id));
            self.sequence_grows(now, &key, admitted.ticket, step.end, slack, units);
        }
        admitted
    }
}

pub(crate) fn same_stream(frame: &Entry, other: &Entry) -> bool {
    let id = |entry: &Entry| entry.sequence.as_ref().map(|step| Arc::clone(&step.id));
    frame.client == other.client && id(frame) == id(other)
}

fn refuse<T>(cause: Cause, reason: String, retry_after: Option<Duration>) -> Result<T, Refusal> {
    Err(Refusal { cause, reason, retry_after })
}
