//! How many clients there may be at a time, and how much each user may ask.
//!
//! One user cannot keep others out: each has a share of the places and of the requests, and some
//! places are kept for root. Pure but for the lock around it: time is passed in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Clients at a time.
pub const PLACES: usize = 64;

/// Of these, places that only root and the agent's own user get.
pub const KEPT: usize = 8;

/// Places that another user gets at most.
pub const PER_USER: usize = 16;

/// How much one user may ask.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests at once after a pause.
    burst: u32,
    /// From one request to the next in the long run.
    every: Duration,
}

/// Of root and the agent's own user.
pub const OWN_PACE: Pace = Pace { burst: 1000, every: Duration::from_millis(1) };

/// Of everyone else: ten screens that ask a few questions a second.
pub const PACE: Pace = Pace { burst: 60, every: Duration::from_millis(50) };

/// The longest that a request waits for its turn; beyond, it is refused.
pub const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Who is connected, and who asked how much.
#[derive(Debug, Default)]
pub struct Places {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    by_user: HashMap<u32, User>,
}

#[derive(Debug)]
struct User {
    taken: usize,
    /// When all that was asked is paid for: one [`Pace::every`] per request.
    paid_until: Instant,
}

/// A client's place; free again when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    uid: u32,
    own: bool,
}

impl Places {
    /// A place for a client of the user `uid`; `own` says that it is root or the agent's own user.
    /// Where there is none, what the client is told.
    ///
    /// # Errors
    /// When all places are taken that this user can have.
    pub fn take(self: &Arc<Self>, uid: u32, own: bool, now: Instant) -> Result<Place, String> {
        let mut state = self.lock();
        // Users who left and asked nothing lately are forgotten.
        state.by_user.retain(|_, user| user.taken > 0 || user.paid_until > now);
        let of_user = state.by_user.get(&uid).map_or(0, |user| user.taken);
        if !own && of_user >= PER_USER {
            return Err(format!("uid {uid} has {PER_USER} connections already; close one"));
        }
        let most = if own { PLACES } else { PLACES - KEPT };
        if state.taken >= most {
            return Err(format!("{} clients are connected already; close one", state.taken));
        }
        state.taken += 1;
        state.by_user.entry(uid).or_insert(User { taken: 0, paid_until: now }).taken += 1;
        Ok(Place { places: Arc::clone(self), uid, own })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is done under the lock that could leave the numbers half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// How long a request that came now has to wait for its turn, so that the user keeps to its
    /// pace on all connections together; nothing where the wait would be too long.
    #[must_use]
    pub fn turn(&self, now: Instant) -> Option<Duration> {
        let Pace { burst, every } = if self.own { OWN_PACE } else { PACE };
        let mut state = self.places.lock();
        let user = state.by_user.get_mut(&self.uid)?;
        let paid_until = user.paid_until.max(now) + every;
        let wait = paid_until.duration_since(now).saturating_sub(every * burst);
        if wait > LONGEST_WAIT {
            return None;
        }
        user.paid_until = paid_until;
        Some(wait)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.taken -= 1;
        if let Some(user) = state.by_user.get_mut(&self.uid) {
            user.taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_all_places_and_all_users_not_those_of_root() {
        let (places, now) = (Arc::new(Places::default()), Instant::now());
        let take = |uid| places.take(uid, uid == 0, now);
        let mut held: Vec<Place> = (0..PER_USER).map(|_| take(1000).unwrap()).collect();
        assert!(take(1000).unwrap_err().contains("uid 1000"));
        for uid in 1001.. {
            let taken: Vec<_> = (0..PER_USER).map_while(|_| take(uid).ok()).collect();
            let full = taken.len() < PER_USER;
            held.extend(taken);
            if full {
                break;
            }
        }
        assert_eq!(held.len(), PLACES - KEPT);
        held.extend((0..KEPT).map(|_| take(0).unwrap()));
        assert!(take(0).is_err());
        held.clear();
        assert!(take(1000).is_ok(), "places are free again");
    }

    #[test]
    fn a_user_that_asks_too_much_waits_on_all_its_connections_and_others_do_not() {
        let (places, start) = (Arc::new(Places::default()), Instant::now());
        let [one, two] = [0, 1].map(|_| places.take(1000, false, start).unwrap());
        for _ in 0..PACE.burst {
            assert_eq!(one.turn(start), Some(Duration::ZERO));
        }
        assert_eq!(two.turn(start), Some(PACE.every));
        let other = places.take(1001, false, start).unwrap();
        assert_eq!(other.turn(start), Some(Duration::ZERO));
        while one.turn(start).is_some() {}
        assert_eq!(two.turn(start), None, "refused, not kept waiting for ever");
        let later = start + PACE.every * PACE.burst + LONGEST_WAIT;
        assert_eq!(two.turn(later), Some(Duration::ZERO));
    }

    #[test]
    fn leaving_and_coming_back_pays_nothing_off() {
        let (places, start) = (Arc::new(Places::default()), Instant::now());
        for _ in 0..PACE.burst {
            let place = places.take(1000, false, start).unwrap();
            assert_eq!(place.turn(start), Some(Duration::ZERO));
        }
        let place = places.take(1000, false, start).unwrap();
        assert_eq!(place.turn(start), Some(PACE.every));
    }
}
