//! What a process would be without the agent.

use super::Engine;
use crate::act::{Lever, Standing, Value};
use crate::observe::process::ProcessSample;
use crate::observe::whereabouts::Moved;

impl Engine {
    /// A process that the agent moved into a group of its own is to the rules where it came from.
    /// Else a rule that looks at its group would hold no more once it was obeyed, the process would
    /// go back, the rule would hold again, and so on.
    pub(super) fn see_at_home(&mut self, sample: &mut ProcessSample) {
        let Some(actuator) = &self.actuator else { return };
        let levers = actuator.levers(sample.pid);
        let moved = levers.iter().find_map(|(lever, entry)| match (lever, &entry.standing) {
            (Lever::Cgroup, Standing::Ours(change)) => Some((&change.ours, &change.old)),
            _ => None,
        });
        if let Some((Value::Cgroup(to), Value::Cgroup(from))) = moved
            && sample.facts.cgroup.as_deref() == Some(&**to)
        {
            self.reader.see_at_home(sample.pid, &mut sample.facts, Moved { to, from });
        }
    }
}
