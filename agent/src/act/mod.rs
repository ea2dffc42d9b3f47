//! Changing the host: the only place that does.
//!
//! [`Control`] is one lever of one subject (a thread, a control group, a unit, a part of the host), [`Journal`] the old values on disk, [`Actuator`] the
//! order between the two, [`restore`] the way back after a kill, `lineage` what children inherit.

mod actuator;
mod clock;
mod control;
mod journal;
mod lineage;
mod lock;
mod outcome;
mod reason;
mod restore;
mod runaway;
mod subject;
mod systemd;
mod units;
mod value;

pub use actuator::{Actuator, Cap};
pub use clock::boot_ticks;
pub use control::{Control, Kernel, is_gone, sched_getaffinity, sched_setattr, start_time_of};
pub use journal::{FILE_NAME as JOURNAL_NAME, Journal};
pub use lock::{LockError, RunLock};
pub use outcome::{Done, Event, LeverEntry, Request, Standing};
pub use restore::{RestoreError, RestoreReport, UNDER_WAY, journals, restore, restore_locked};
pub use runaway::{Demoted, Given, RunawayWatch};
pub use subject::{GroupId, Key, Subject, ThreadId};
pub use units::{UnitRequest, Units};
pub use value::{
    CpuLimit, CpuShare, Cpuset, Lever, PerDevice, RESET_ON_FORK, Sched, Value, cpu_ranges,
};
