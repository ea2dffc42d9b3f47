//! One connection: events in and out, and how long and how much a client may take.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::event::{Decoder, Event, Malformed};

/// What all conversations together may keep in memory.
const BUDGET: usize = 256 << 20;

/// One permit of the budget stands for so many bytes.
const UNIT: usize = 1 << 10;

/// What is read at a time.
const READ: usize = 16 << 10;

/// What may lie unread behind an event that is worked on.
const AHEAD: usize = 64 << 10;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two pieces of an event, or of a stream of sound.
    pub piece: Duration,
    /// For a whole event.
    pub event: Duration,
    /// Between two events outside of a stream; then the connection is closed.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            piece: Duration::from_secs(30),
            event: Duration::from_secs(60),
            idle: Duration::from_secs(600),
        }
    }
}

/// What all conversations together may keep.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self::of(BUDGET)
    }
}

impl Budget {
    fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT)))
    }
}

/// One conversation's part of the budget.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    held: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Of nothing, yet.
    #[must_use]
    pub fn of(budget: &Budget) -> Self {
        Self { budget: budget.clone(), held: None }
    }

    /// Makes it as large as `bytes` needs; gives back what is more.
    fn hold(&mut self, bytes: usize) -> bool {
        let units = bytes / UNIT;
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if units < held {
            drop(self.held.as_mut().and_then(|held_permit| held_permit.split(held - units)));
            return true;
        }
        let Ok(lacking) = u32::try_from(units - held) else { return false };
        let Ok(more) = Arc::clone(&self.budget.0).try_acquire_many_owned(lacking) else {
            return false;
        };
        match &mut self.held {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// What came is no event.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The client's sending side ended within an event.
    #[error("the connection ended within an event")]
    Cut,
    /// Nothing came for so long, or not all of it.
    #[error("{0}")]
    Slow(String),
    /// Too much is kept already.
    #[error("all conversations together may keep {BUDGET} bytes; try again")]
    Full,
    /// The client left while it was worked for, or closed its sending side, which is taken for that.
    #[error("the connection was closed before the answer was there")]
    Gone,
    /// The kernel's.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A connection.
#[derive(Debug)]
pub struct Link<S> {
    stream: S,
    decoder: Decoder,
    ended: bool,
    patience: Patience,
    share: Share,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// Over a stream.
    pub fn new(stream: S, patience: Patience, budget: &Budget) -> Self {
        let (decoder, share) = (Decoder::default(), Share::of(budget));
        Self { stream, decoder, ended: false, patience, share }
    }

    /// The next event; nothing where the client has no more. `kept` bytes lie elsewhere for this
    /// conversation; `until` says when a stream of sound must be over, where one goes on.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn next(
        &mut self,
        kept: usize,
        until: Option<Instant>,
    ) -> Result<Option<Event>, Fault> {
        let mut began = None;
        loop {
            if let Some(event) = self.decoder.take()? {
                return Ok(Some(event));
            }
            if self.ended {
                let whole = self.decoder.is_between();
                return if whole { Ok(None) } else { Err(Fault::Cut) };
            }
            if !self.share.hold(kept + self.decoder.announced()) {
                return Err(Fault::Full);
            }
            let now = Instant::now();
            let Patience { piece, event, idle } = self.patience;
            let limit = if !self.decoder.is_between() {
                let whole = *began.get_or_insert(now) + event;
                whole.min(now + piece)
            } else if until.is_some() {
                now + piece
            } else {
                now + idle
            };
            let limit = until.map_or(limit, |until| until.min(limit));
            let Ok(read) = timeout_at(limit, self.read()).await else {
                return if self.decoder.is_between() && until.is_none() {
                    Ok(None)
                } else {
                    Err(Fault::Slow(format!(
                        "nothing came for {piece:?}, an event took longer than {event:?}, or an \
                         utterance took much longer than it may last"
                    )))
                };
            };
            read?;
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        self.decoder.buffer.reserve(READ);
        self.ended |= self.stream.read_buf(&mut self.decoder.buffer).await? == 0;
        Ok(())
    }

    /// Sends an event.
    ///
    /// # Errors
    /// The kernel's; a client that takes nothing for long is one.
    pub async fn send(&mut self, event: &Event) -> Result<(), Fault> {
        self.stream.write_all(&event.encode()).await?;
        Ok(self.stream.flush().await?)
    }

    /// Does work for the client, and gives it up where the client leaves.
    ///
    /// # Errors
    /// [`Fault::Gone`].
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Fault> {
        let mut work = std::pin::pin!(work);
        loop {
            if self.ended {
                return Err(Fault::Gone);
            }
            // A client that sends on and on is read again when this is done.
            let room = self.decoder.buffer.len() < AHEAD;
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                read = self.read(), if room => {
                    if read.is_err() {
                        self.ended = true;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    const SHORT: Duration = Duration::from_millis(50);

    fn patience() -> Patience {
        Patience { piece: SHORT, event: 3 * SHORT, idle: SHORT }
    }

    #[tokio::test]
    async fn a_client_that_stops_within_an_event_is_told_and_an_idle_one_is_closed() {
        let (mut client, server) = duplex(1000);
        let mut link = Link::new(server, patience(), &Budget::default());
        assert!(matches!(link.next(0, None).await, Ok(None)), "an idle one");
        client.write_all(b"{\"type\"").await.unwrap();
        let fault = link.next(0, None).await.unwrap_err();
        assert!(fault.to_string().starts_with("nothing came for 50ms"), "{fault}");
    }

    #[tokio::test]
    async fn a_client_that_sends_byte_by_byte_has_no_more_time_than_others() {
        let (mut client, server) = duplex(1000);
        let mut link = Link::new(server, patience(), &Budget::default());
        let drip = tokio::spawn(async move {
            while client.write_all(b" ").await.is_ok() {
                tokio::time::sleep(SHORT / 5).await;
            }
        });
        assert!(matches!(link.next(0, None).await, Err(Fault::Slow(_))));
        drop(link);
        drip.await.unwrap();
    }

    #[tokio::test]
    async fn an_end_between_events_is_one_and_within_is_a_fault() {
        for (sent, cut) in [("{\"type\":\"x\"}\n", false), ("{\"type\":\"x\"}\n{", true)] {
            let (mut client, server) = duplex(1000);
            let mut link = Link::new(server, Patience::default(), &Budget::default());
            client.write_all(sent.as_bytes()).await.unwrap();
            drop(client);
            assert_eq!(link.next(0, None).await.unwrap(), Some(Event::new("x")));
            assert_eq!(matches!(link.next(0, None).await, Err(Fault::Cut)), cut);
        }
    }

    #[tokio::test]
    async fn work_ends_with_its_client_and_what_is_sent_meanwhile_is_kept() {
        let (mut client, server) = duplex(1000);
        let mut link = Link::new(server, Patience::default(), &Budget::default());
        client.write_all(b"{\"type\":\"x\"}\n").await.unwrap();
        assert_eq!(link.during(tokio::time::sleep(SHORT)).await.unwrap(), ());
        assert_eq!(link.next(0, None).await.unwrap(), Some(Event::new("x")));
        drop(client);
        let endless = std::future::pending::<()>();
        assert!(matches!(link.during(endless).await, Err(Fault::Gone)));
    }

    #[tokio::test]
    async fn all_conversations_share_a_budget() {
        let budget = Budget::of(3 * UNIT);
        let (mut first, mut second) = (Share::of(&budget), Share::of(&budget));
        assert!(first.hold(2 * UNIT));
        assert!(!second.hold(2 * UNIT));
        assert!(first.hold(UNIT));
        assert!(second.hold(2 * UNIT));
        drop(second);
        assert!(first.hold(3 * UNIT));
        let (mut client, server) = duplex(1000);
        let mut link = Link::new(server, Patience::default(), &budget);
        client.write_all(b"{\"type\":\"x\",\"payload_length\":100000}\n").await.unwrap();
        assert!(matches!(link.next(0, None).await, Err(Fault::Full)));
    }
}
