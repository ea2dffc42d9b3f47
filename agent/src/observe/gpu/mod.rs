//! GPUs through NVML, which is loaded at run time where the driver brings it.
//!
//! A call into a broken driver may never return, so a thread of its own makes all of them and
//! publishes what it got; [`GpuReader::read`] only copies the latest. Where there is no library
//! the thread ends at once and nothing of it stays.

mod nvml;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use downbeat_api::{Gpu, GpuView};

/// Between two looks at the devices; the driver averages its own figures over 1/6 s to 1 s.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Between two attempts to open the driver where it is not there.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// From this age on a view is said to be stale.
const STALE_AFTER: Duration = Duration::from_secs(5);
/// From this age on a stale view's figures are not shown any more: absent, not wrong.
const DROP_AFTER: Duration = Duration::from_secs(30);

/// The devices now, and a line about those that failed; an error when the driver itself did.
type Look = Box<dyn FnMut() -> Result<GpuView, String>>;
/// Opens the driver, on the thread that then uses it.
type Open = fn() -> Result<Look, String>;

/// Gives the latest view of the GPUs.
#[derive(Debug)]
pub struct GpuReader {
    open: Open,
    times: Times,
    shared: Arc<Shared>,
    /// The reason that was logged last, so that each is logged once.
    logged: Option<String>,
}

/// The waits, which a test shortens.
#[derive(Clone, Copy, Debug)]
struct Times {
    sample_every: Duration,
    retry_after: Duration,
    stale_after: Duration,
    drop_after: Duration,
}

#[derive(Debug)]
struct Shared(Mutex<Published>);

/// What the thread said last.
#[derive(Debug)]
struct Published {
    view: GpuView,
    at: Instant,
    /// The thread has ended: the driver is not there or failed.
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Published> {
        // The value is replaced whole, so that a panic elsewhere cannot have left half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for GpuReader {
    fn default() -> Self {
        Self::new()
    }
}

impl GpuReader {
    /// Never fails: without a driver the view holds the reason.
    #[must_use]
    pub fn new() -> Self {
        let times = Times {
            sample_every: SAMPLE_EVERY,
            retry_after: RETRY_AFTER,
            stale_after: STALE_AFTER,
            drop_after: DROP_AFTER,
        };
        Self::with(nvml::open, times)
    }

    fn with(open: Open, times: Times) -> Self {
        let shared = Arc::new(Shared(Mutex::new(Published {
            view: GpuView::default(),
            at: Instant::now(),
            ended: false,
        })));
        let reader = Self { open, times, shared, logged: None };
        reader.start();
        reader
    }

    /// The latest view; returns at once. Devices are empty until the driver was first asked.
    pub fn read(&mut self) -> GpuView {
        let (mut view, age, ended) = {
            let published = self.shared.lock();
            (published.view.clone(), published.at.elapsed(), published.ended)
        };
        let mut stale = false;
        if ended {
            if age >= self.times.retry_after {
                self.start();
            }
        } else if age >= self.times.stale_after {
            stale = true;
            if age >= self.times.drop_after {
                view.devices.clear();
            }
            view.note = Some(format!(
                "the NVIDIA driver has not answered for {} s; `dmesg | grep -i xid` may say why",
                age.as_secs()
            ));
        }
        self.log(view.note.as_deref(), stale);
        view
    }

    /// Each reason once; a stale view's note counts its age, so that one is logged as it begins.
    fn log(&mut self, note: Option<&str>, stale: bool) {
        let reason = if stale { Some("stale") } else { note };
        if reason == self.logged.as_deref() {
            return;
        }
        match note {
            Some(note) => tracing::info!("GPU: {note}"),
            None => tracing::info!("GPU: the driver answers"),
        }
        self.logged = reason.map(str::to_owned);
    }

    fn start(&self) {
        {
            let mut published = self.shared.lock();
            published.at = Instant::now();
            published.ended = false;
        }
        let shared = Arc::downgrade(&self.shared);
        let (open, every) = (self.open, self.times.sample_every);
        let spawned = thread::Builder::new()
            .name("downbeat-gpu".into())
            .spawn(move || watch(open, every, &shared));
        if let Err(error) = spawned {
            end(&self.shared, format!("no thread for the GPU driver: {error}"));
        }
    }
}

/// Looks until the reader is gone or the driver fails; publishes the reason when it ends.
fn watch(open: Open, every: Duration, shared: &Weak<Shared>) {
    let failed = |reason| {
        if let Some(shared) = shared.upgrade() {
            end(&shared, reason);
        }
    };
    let mut look = match open() {
        Ok(look) => look,
        Err(reason) => return failed(reason),
    };
    loop {
        let view = match look() {
            Ok(view) => view,
            Err(reason) => return failed(reason),
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        {
            let mut published = shared.lock();
            published.view = view;
            published.at = Instant::now();
        }
        drop(shared);
        thread::sleep(every);
    }
}

fn end(shared: &Shared, reason: String) {
    *shared.lock() = Published {
        view: GpuView { devices: Vec::<Gpu>::new(), note: Some(reason) },
        at: Instant::now(),
        ended: true,
    };
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const QUICK: Times = Times {
        sample_every: Duration::from_millis(1),
        retry_after: Duration::from_millis(100),
        stale_after: Duration::from_millis(200),
        drop_after: Duration::from_millis(500),
    };

    fn one_device() -> GpuView {
        GpuView { devices: vec![Gpu { name: "H".into(), ..Gpu::default() }], note: None }
    }

    /// Reads until the view is as wanted, for at most 5 s.
    fn until(reader: &mut GpuReader, wanted: impl Fn(&GpuView) -> bool) -> GpuView {
        let started = Instant::now();
        loop {
            let view = reader.read();
            if wanted(&view) {
                return view;
            }
            assert!(started.elapsed() < Duration::from_secs(5), "{view:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn this_machine_shows_its_devices_or_one_line_with_the_reason() {
        let mut reader = GpuReader::new();
        let view = until(&mut reader, |view| view.note.is_some() || !view.devices.is_empty());
        if view.devices.is_empty() {
            let note = view.note.unwrap();
            assert!(!note.contains('\n') && note.contains("driver"), "{note}");
        }
    }

    #[test]
    fn a_driver_that_is_not_there_is_asked_again_only_after_the_wait() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let open: Open = || {
            ASKED.fetch_add(1, Ordering::Relaxed);
            Err("no driver".into())
        };
        let mut reader = GpuReader::with(open, QUICK);
        let view = until(&mut reader, |view| view.note.is_some());
        assert_eq!(view.note.as_deref(), Some("no driver"));
        for _ in 0..20 {
            reader.read();
        }
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
        thread::sleep(QUICK.retry_after);
        assert_eq!(reader.read().note.as_deref(), Some("no driver"), "the reason stays meanwhile");
        until(&mut reader, |_| ASKED.load(Ordering::Relaxed) == 2);
    }

    #[test]
    fn a_driver_that_comes_later_is_found() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let open: Open = || match ASKED.fetch_add(1, Ordering::Relaxed) {
            0 => Err("no driver".into()),
            _ => Ok(Box::new(|| Ok(one_device()))),
        };
        let mut reader = GpuReader::with(open, QUICK);
        let view = until(&mut reader, |view| !view.devices.is_empty());
        assert_eq!(view, one_device());
    }

    #[test]
    fn a_call_that_hangs_holds_nobody_up_and_its_figures_fade() {
        static LOOKS: AtomicU32 = AtomicU32::new(0);
        let open: Open = || {
            Ok(Box::new(|| {
                if LOOKS.fetch_add(1, Ordering::Relaxed) > 3 {
                    thread::sleep(Duration::from_secs(3));
                }
                Ok(one_device())
            }))
        };
        let mut reader = GpuReader::with(open, QUICK);
        until(&mut reader, |view| !view.devices.is_empty() && view.note.is_none());
        let stale = until(&mut reader, |view| view.note.is_some());
        assert_eq!(stale.devices.len(), 1);
        assert!(stale.note.unwrap().contains("has not answered"));
        let faded = until(&mut reader, |view| view.devices.is_empty());
        assert!(faded.note.is_some());
        until(&mut reader, |view| view.note.is_none());
    }

    #[test]
    fn a_driver_that_hangs_while_it_opens_is_said() {
        let open: Open = || {
            thread::sleep(Duration::from_secs(1));
            Err("late".into())
        };
        let mut reader = GpuReader::with(open, QUICK);
        let started = Instant::now();
        assert_eq!(reader.read(), GpuView::default());
        assert!(started.elapsed() < Duration::from_millis(100));
        until(&mut reader, |view| {
            view.note.as_ref().is_some_and(|note| note.contains("has not answered"))
        });
    }

    #[test]
    fn a_driver_that_fails_later_leaves_no_figures() {
        static LOOKS: AtomicU32 = AtomicU32::new(0);
        let open: Open = || {
            Ok(Box::new(|| match LOOKS.fetch_add(1, Ordering::Relaxed) {
                0..20 => Ok(one_device()),
                _ => Err("GPU lost".into()),
            }))
        };
        let mut reader = GpuReader::with(open, QUICK);
        until(&mut reader, |view| !view.devices.is_empty());
        let view = until(&mut reader, |view| view.note.is_some());
        assert_eq!((view.devices.len(), view.note.as_deref()), (0, Some("GPU lost")));
    }

    #[test]
    fn the_thread_ends_with_its_reader() {
        static LOOKS: AtomicU32 = AtomicU32::new(0);
        let open: Open = || {
            Ok(Box::new(|| {
                LOOKS.fetch_add(1, Ordering::Relaxed);
                Ok(one_device())
            }))
        };
        let mut reader = GpuReader::with(open, QUICK);
        until(&mut reader, |_| LOOKS.load(Ordering::Relaxed) > 2);
        drop(reader);
        thread::sleep(Duration::from_millis(100));
        let after = LOOKS.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(LOOKS.load(Ordering::Relaxed), after);
    }
}
