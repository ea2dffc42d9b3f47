//! The host's switches: set while a class that asks for them has threads.

use std::collections::BTreeSet;

use crate::act::boot_ticks;
use crate::act::{Key, Lever, Request, Subject, Value};
use crate::decide::{self, Switches};
use crate::engine::Engine;

/// What is asked of the host at the moment.
#[derive(Debug, Default)]
pub(super) struct Set {
    wanted: Switches,
    subjects: BTreeSet<Subject>,
}

impl Engine {
    /// Brings the switches to what the classes with threads ask for.
    pub(in crate::engine) fn set_switches(&mut self) {
        if self.actuator.is_none() || self.mode != downbeat_api::Mode::Engaged {
            self.levers.switches = Set::default();
            return;
        }
        let active: BTreeSet<usize> = self
            .world
            .followed()
            .flat_map(|process| process.threads.values())
            .filter_map(|thread| Some(thread.classified?.class))
            .collect();
        let classes = active.iter().filter_map(|class| self.policy.set.classes.get(*class));
        let wanted = decide::switches(classes, &self.host, &self.levers.machine);
        if wanted == self.levers.switches.wanted {
            return;
        }
        let values = self.switch_values(&wanted);
        let Some(actuator) = &mut self.actuator else { return };
        let subjects: BTreeSet<Subject> =
            values.iter().map(|(subject, _)| subject.clone()).collect();
        let mut done = Vec::new();
        for gone in self.levers.switches.subjects.difference(&subjects) {
            done.extend(actuator.undo(gone.key()));
        }
        let requests: Vec<Request<'_>> = values
            .iter()
            .map(|(subject, value)| Request {
                subject: subject.clone(),
                wanted: std::slice::from_ref(value),
                otherwise: &[],
            })
            .collect();
        done.extend(actuator.apply(&requests, boot_ticks()));
        self.levers.switches = Set { wanted, subjects };
        self.enter(&done);
    }

    fn switch_values(&self, wanted: &Switches) -> Vec<(Subject, Value)> {
        let mut values = Vec::new();
        if let Some(us) = wanted.wakeup_latency_us {
            values.push((Subject::Host, Value::WakeupLatency(Some(us))));
        }
        for (domain, preference) in &wanted.energy {
            let value = Value::Energy((*preference).to_owned());
            values.push((Subject::Frequency(*domain), value));
        }
        if wanted.quiet_cpus.is_empty() {
            return values;
        }
        for irq in &self.levers.machine.irqs {
            let subject = Subject::Irq(*irq);
            // From where it was before us: a class that lets go gives its CPUs back.
            let before = self.actuator.as_ref().map(|it| it.before(&subject, Lever::IrqAffinity));
            let Some(Ok(Value::IrqAffinity(now))) = before else { continue };
            let is_ours =
                self.actuator.as_ref().is_some_and(|it| !it.levers(Key::Irq(*irq)).is_empty());
            match wanted.away(&now, &self.host.cpus) {
                Some(away) if away != now || is_ours => {
                    values.push((subject, Value::IrqAffinity(away)));
                }
                _ => {}
            }
        }
        values
    }
}
