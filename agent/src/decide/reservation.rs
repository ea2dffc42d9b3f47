//! Reservations (SCHED_DEADLINE): so much CPU time in each period, guaranteed and not exceeded.

use downbeat_policy::{Class, Deadline, Sched as Wish, SchedParameters, SchedPolicy, Span};

use super::nanoseconds;
use crate::act::{RESET_ON_FORK, Sched};

/// Jobs after which a thread's cost and period are believed.
const ENOUGH_JOBS: u64 = 100;

/// What is added to the measured cost: a frame that is a little dearer than all before must not
/// wait for the next period.
const MARGIN: f64 = 1.2;

/// The smallest budget that is asked for, nanoseconds: below, the kernel's own bookkeeping counts.
const LEAST_BUDGET: u64 = 100_000;

/// The largest part of its period that a thread may reserve. One that needs more is not periodic
/// work beside others.
const MOST: f64 = 0.9;

/// How far a measured number may drift before the reservation is made anew.
const DRIFT: f64 = 0.15;

/// What a class says of its reservations; what is absent is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reservation {
    budget_ns: Option<u64>,
    period_ns: Option<u64>,
    deadline_ns: Option<u64>,
}

/// What the job probe knows of one thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Jobs seen.
    pub jobs: u64,
    /// CPU time that 99 % of the jobs stay below, nanoseconds.
    pub cost_ns: u64,
    /// From one release to the next, nanoseconds.
    pub period_ns: u64,
}

impl Reservation {
    /// Of a class that asks for one.
    pub(super) fn of(class: &Class) -> Option<Self> {
        let Wish::Set(SchedParameters { policy: SchedPolicy::Deadline, budget, period, .. }) =
            &class.sched
        else {
            return None;
        };
        let given = |span: &Option<Span>| match span {
            Some(Span::Given(duration)) => Some(nanoseconds(*duration)),
            Some(Span::Auto) | None => None,
        };
        let deadline = class.deadline.and_then(|deadline| match deadline {
            Deadline::After(after) => Some(after),
            Deadline::Auto => None,
        });
        Some(Self {
            budget_ns: given(budget),
            period_ns: given(period),
            deadline_ns: deadline.map(nanoseconds),
        })
    }

    /// The reservation of one thread, once all its numbers are known and make sense together.
    #[must_use]
    pub fn sched(&self, measured: Option<Measured>) -> Option<Sched> {
        let measured = measured.filter(|measured| measured.jobs >= ENOUGH_JOBS);
        let period = self.period_ns.or(measured.map(|it| it.period_ns))?;
        let learned = || {
            let cost = measured?.cost_ns as f64 * MARGIN;
            Some((cost as u64).max(LEAST_BUDGET))
        };
        let runtime = self.budget_ns.or_else(learned)?;
        let deadline = self.deadline_ns.unwrap_or(period).min(period);
        let fits = runtime <= deadline && runtime as f64 <= MOST * period as f64;
        let known = self.budget_ns.is_some() && self.period_ns.is_some();
        (known || fits).then_some(Sched {
            policy: Sched::policy_number(SchedPolicy::Deadline),
            flags: RESET_ON_FORK,
            runtime,
            deadline,
            period,
            ..Sched::DEFAULT
        })
    }
}

/// Whether a reservation in force still says what is measured now.
#[must_use]
pub fn still_fits(in_force: &Sched, now: &Sched) -> bool {
    let near = |a: u64, b: u64| (a as f64 - b as f64).abs() <= DRIFT * a as f64;
    near(in_force.runtime, now.runtime) && near(in_force.period, now.period)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SEEN: Measured = Measured { jobs: 500, cost_ns: 2 * MS, period_ns: 10 * MS };

    #[test]
    fn what_is_given_needs_no_measuring() {
        let given = Reservation {
            budget_ns: Some(3 * MS),
            period_ns: Some(10 * MS),
            deadline_ns: Some(8 * MS),
        };
        let sched = given.sched(None).unwrap();
        assert_eq!((sched.runtime, sched.deadline, sched.period), (3 * MS, 8 * MS, 10 * MS));
        assert!(sched.resets_on_fork());
    }

    #[test]
    fn what_is_measured_gets_a_margin_and_takes_a_while() {
        let auto = Reservation::default();
        assert_eq!(auto.sched(None), None);
        assert_eq!(auto.sched(Some(Measured { jobs: 99, ..SEEN })), None);
        let sched = auto.sched(Some(SEEN)).unwrap();
        assert_eq!((sched.runtime, sched.deadline, sched.period), (2_400_000, 10 * MS, 10 * MS));
    }

    #[test]
    fn a_thread_that_needs_nearly_all_of_its_period_gets_none() {
        let auto = Reservation::default();
        assert_eq!(auto.sched(Some(Measured { cost_ns: 9 * MS, ..SEEN })), None);
        let short = Reservation { deadline_ns: Some(2 * MS), ..auto };
        assert_eq!(short.sched(Some(SEEN)), None, "its budget is beyond its deadline");
    }

    #[test]
    fn a_little_drift_changes_nothing() {
        let auto = Reservation::default();
        let at = |cost_ns| auto.sched(Some(Measured { cost_ns, ..SEEN })).unwrap();
        assert!(still_fits(&at(2_000_000), &at(2_200_000)));
        assert!(!still_fits(&at(2_000_000), &at(2_600_000)));
    }
}
