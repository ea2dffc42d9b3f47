//! Who looks at the picture: while nobody does, the engine makes it seldom.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use downbeat_api::Snapshot;
use tokio::sync::{Notify, watch};

/// A picture of this age or less is handed out as it is.
pub const FRESH: Duration = Duration::from_millis(1250);

/// How long the engine may take for a new one; after that the last one has to do.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the engine knows of those who look.
#[derive(Debug)]
pub struct Onlookers {
    watching: AtomicUsize,
    asks: Notify,
    begun: Instant,
    /// When the latest picture was made, milliseconds after `begun`.
    made_ms: AtomicU64,
}

impl Default for Onlookers {
    fn default() -> Self {
        Self {
            watching: AtomicUsize::new(0),
            asks: Notify::new(),
            begun: Instant::now(),
            made_ms: AtomicU64::new(0),
        }
    }
}

impl Onlookers {
    /// Whether somebody is shown every picture.
    pub(crate) fn any(&self) -> bool {
        self.watching.load(Ordering::Relaxed) > 0
    }

    /// Waits until somebody wants a new picture.
    pub(crate) async fn asked(&self) {
        self.asks.notified().await;
    }

    /// A picture was made at `now`.
    pub(crate) fn made(&self, now: Instant) {
        self.made_ms.store(self.millis(now), Ordering::Relaxed);
    }

    /// The age of the latest picture at `now`.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        let made = self.made_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.millis(now).saturating_sub(made))
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.begun).as_millis()).unwrap_or(u64::MAX)
    }
}

/// The picture, for one who looks at it.
#[derive(Clone, Debug)]
pub struct View {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    onlookers: Arc<Onlookers>,
}

impl View {
    /// A view of what comes from `snapshots`, whose maker looks at `onlookers`.
    #[must_use]
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>, onlookers: Arc<Onlookers>) -> Self {
        Self { snapshots, onlookers }
    }

    /// The latest picture, however old.
    #[must_use]
    pub fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// The picture as it is now: [`FRESH`], unless the engine has no time.
    pub async fn fresh(&mut self) -> Arc<Snapshot> {
        self.snapshots.mark_unchanged();
        if self.onlookers.age(Instant::now()) > FRESH {
            self.onlookers.asks.notify_one();
            // Where the engine ends or hangs, what there is has to do.
            let _ = tokio::time::timeout(PATIENCE, self.snapshots.changed()).await;
        }
        Arc::clone(&self.snapshots.borrow_and_update())
    }

    /// Every picture from now on, one a second.
    #[must_use]
    pub fn watch(self) -> Watching {
        self.onlookers.watching.fetch_add(1, Ordering::Relaxed);
        Watching(self)
    }
}

/// A view of one who is shown every picture, as long as this lives.
#[derive(Debug)]
pub struct Watching(View);

impl Watching {
    /// As [`View::fresh`].
    pub async fn fresh(&mut self) -> Arc<Snapshot> {
        self.0.fresh().await
    }

    /// The next picture; nothing when the engine has ended.
    pub async fn next(&mut self) -> Option<Arc<Snapshot>> {
        self.0.snapshots.changed().await.ok()?;
        Some(Arc::clone(&self.0.snapshots.borrow_and_update()))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.onlookers.watching.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use downbeat_api::{Mode, Source};

    use super::*;
    use crate::engine::empty_snapshot;
    use crate::observe::host;
    use crate::roots::Roots;

    fn picture(tick: u64) -> Arc<Snapshot> {
        let nothing = tempfile::tempdir().unwrap();
        let [proc, sys, dev] = ["proc", "sys", "dev"].map(|name| nothing.path().join(name));
        let host = host::probe(&Roots { proc, sys, dev });
        Arc::new(Snapshot { tick, ..empty_snapshot(&host, &Source::Bpf, Mode::Engaged) })
    }

    fn view() -> (watch::Sender<Arc<Snapshot>>, Arc<Onlookers>, View) {
        let (sender, snapshots) = watch::channel(picture(1));
        let onlookers = Arc::new(Onlookers::default());
        (sender, Arc::clone(&onlookers), View::new(snapshots, onlookers))
    }

    #[tokio::test]
    async fn who_asks_for_an_old_picture_has_a_new_one_made() {
        let (sender, _, mut view) = view();
        assert_eq!(view.fresh().await.tick, 1, "it is not old yet");
        let begun = Instant::now().checked_sub(2 * FRESH).unwrap();
        let onlookers = Arc::new(Onlookers { begun, ..Onlookers::default() });
        view.onlookers = Arc::clone(&onlookers);
        let asks = tokio::spawn(async move { view.fresh().await.tick });
        onlookers.asked().await;
        sender.send_replace(picture(2));
        onlookers.made(Instant::now());
        assert_eq!(asks.await.unwrap(), 2);
        assert!(onlookers.age(Instant::now()) < FRESH);
    }

    #[tokio::test]
    async fn an_engine_without_time_costs_no_more_than_patience() {
        let (_sender, _, mut view) = view();
        let begun = Instant::now().checked_sub(2 * FRESH).unwrap();
        view.onlookers = Arc::new(Onlookers { begun, ..Onlookers::default() });
        assert_eq!(view.fresh().await.tick, 1);
    }

    #[tokio::test]
    async fn who_watches_counts_until_they_leave() {
        let (sender, onlookers, view) = view();
        assert!(!onlookers.any());
        let mut watching = view.clone().watch();
        let other = view.watch();
        assert!(onlookers.any());
        sender.send_replace(picture(2));
        assert_eq!(watching.next().await.map(|picture| picture.tick), Some(2));
        drop(watching);
        assert!(onlookers.any());
        drop(other);
        assert!(!onlookers.any());
    }
}
