//! Changing the host: the only place that does.
//!
//! [`Control`] is one lever of one thread, [`Journal`] the old values on disk, [`Actuator`] the
//! order between the two, [`restore`] the way back after a kill, `lineage` what children inherit.

mod actuator;
mod control;
mod journal;
mod lineage;
mod lock;
mod outcome;
mod restore;
mod value;

pub use actuator::Actuator;
pub use control::{Control, Kernel, is_gone, sched_getaffinity, start_time_of};
pub use journal::{FILE_NAME as JOURNAL_NAME, Journal, ThreadId};
pub use lock::{LockError, RunLock};
pub use outcome::{Done, Event, LeverEntry, Request, Standing};
pub use restore::{RestoreError, RestoreReport, UNDER_WAY, restore, restore_locked};
pub use value::{Lever, RESET_ON_FORK, Sched, Value, cpu_ranges};
