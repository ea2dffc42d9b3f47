//! The files of clients that are open here.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Files of one user, at most.
const MAX_OF_USER: usize = 64;

/// Files of all users, at most: descriptors are for connections too (1,024 by most hosts' limit).
const MAX_OF_ALL: usize = 256;

/// How often it is looked for files that nobody has any more.
const LOOK: Duration = Duration::from_millis(250);

/// Every file that a region or a request has, and the thread that closes them: to close the last
/// descriptor of a file that has no name any more frees all its memory, which takes as long as its
/// owner made it large. So nobody else ever has the last one.
#[derive(Clone, Debug, Default)]
pub struct Files(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    files: Vec<(u32, Arc<OwnedFd>)>,
    /// The thread runs: as long as there are files.
    closing: bool,
}

impl Files {
    /// Keeps a file of this user, and those whom it is given to from closing it.
    ///
    /// # Errors
    /// Why there is no room for it, in words.
    pub fn keep(&self, user: u32, file: OwnedFd) -> Result<Arc<OwnedFd>, String> {
        let mut open = lock(&self.0);
        let all = open.files.len();
        let own = open.files.iter().filter(|(of, _)| *of == user).count();
        if own >= MAX_OF_USER || all >= MAX_OF_ALL {
            return Err(format!(
                "{own} files of user {user} and {all} in all are registered or in use; \
                 {MAX_OF_USER} and {MAX_OF_ALL} are the most: unregister one, or have several \
                 tensors in one"
            ));
        }
        if !open.closing {
            let shared = Arc::clone(&self.0);
            let thread = thread::Builder::new().name("close-files".into());
            let started = thread.spawn(move || while close(&shared) {});
            started.map_err(|error| format!("no thread to close it: {error}"))?;
            open.closing = true;
        }
        let file = Arc::new(file);
        open.files.push((user, Arc::clone(&file)));
        Ok(file)
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    // Each change to it is whole.
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes what only this has, after a while; whether there are others.
fn close(open: &Mutex<Open>) -> bool {
    thread::sleep(LOOK);
    let mut now = lock(open);
    let (unused, used) =
        std::mem::take(&mut now.files).into_iter().partition(|(_, it)| Arc::strong_count(it) == 1);
    now.files = used;
    now.closing = !now.files.is_empty();
    let goes_on = now.closing;
    drop(now);
    drop::<Vec<_>>(unused);
    goes_on
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn file() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_is_in_use_counts_and_is_closed_afterwards() {
        let files = Files::default();
        let mut kept: Vec<_> = (0..MAX_OF_USER).map(|_| files.keep(7, file()).unwrap()).collect();
        let why = files.keep(7, file()).unwrap_err();
        assert!(why.contains("64 files of user 7") && why.contains("unregister one"), "{why}");
        kept.push(files.keep(8, file()).unwrap());
        let weak: Vec<_> = kept.iter().map(Arc::downgrade).collect();
        kept.truncate(1);
        let until = Instant::now() + Duration::from_secs(20);
        while weak[1..].iter().any(|it| it.strong_count() > 0) {
            assert!(Instant::now() < until, "still open");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(weak[0].strong_count(), 2, "whose user still has it");
        files.keep(7, file()).unwrap();
    }

    #[test]
    fn so_many_are_open_in_all() {
        let files = Files::default();
        let kept: Vec<_> =
            (0..MAX_OF_ALL).map(|user| files.keep(user as u32 / 64, file()).unwrap()).collect();
        assert!(files.keep(99, file()).unwrap_err().contains("256 in all"));
        drop(kept);
    }
}
