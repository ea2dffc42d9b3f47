//! The words for what the kernel programs tell apart: releases, culprits and causes.

use downbeat_api::{CauseKind, Culprit, CulpritKind, Release};

use crate::theme::Ink;

/// What released a job, in a word for a table.
#[must_use]
pub fn release(release: Release) -> &'static str {
    match release {
        Release::Timer => "timer",
        Release::Interrupt => "interrupt",
        Release::Wake => "wake",
        Release::Marked => "marked",
    }
}

/// What released a job, in a sentence that starts with `released by`.
#[must_use]
pub fn released_by(release: Release) -> &'static str {
    match release {
        Release::Timer => "a timer of its own",
        Release::Interrupt => "an interrupt",
        Release::Wake => "another process",
        Release::Marked => "its own mark",
    }
}

/// What a culprit is.
#[must_use]
pub fn kind(kind: CulpritKind) -> &'static str {
    match kind {
        CulpritKind::Class => "class",
        CulpritKind::Program => "program",
        CulpritKind::Workload => "own process",
        CulpritKind::Kernel => "kernel thread",
        CulpritKind::HardInterrupt | CulpritKind::SoftInterrupt => "interrupt",
        CulpritKind::Timer => "timer",
        CulpritKind::Idle => "idle CPU waking",
        CulpritKind::Stolen => "stolen by the hypervisor",
        CulpritKind::Others => "others",
        CulpritKind::Unknown => "unknown",
    }
}

/// Who a culprit is, in a table beside its kind.
#[must_use]
pub fn name(culprit: &Culprit) -> String {
    if !culprit.name.is_empty() {
        return culprit.name.clone();
    }
    match culprit.kind {
        CulpritKind::Class | CulpritKind::Program | CulpritKind::Kernel => "(no name)",
        CulpritKind::Workload => "other threads of it",
        CulpritKind::HardInterrupt => "hard interrupts",
        CulpritKind::SoftInterrupt => "soft interrupts",
        CulpritKind::Timer => "timer interrupt",
        CulpritKind::Idle => "nobody",
        CulpritKind::Stolen => "hypervisor",
        CulpritKind::Others => "smaller ones",
        CulpritKind::Unknown => "no record",
    }
    .into()
}

/// Who a culprit is, where no kind stands beside it.
#[must_use]
pub fn whole(culprit: &Culprit) -> String {
    match culprit.kind {
        CulpritKind::Program => name(culprit),
        CulpritKind::Class
        | CulpritKind::Kernel
        | CulpritKind::HardInterrupt
        | CulpritKind::SoftInterrupt
            if !culprit.name.is_empty() =>
        {
            format!("{} {}", kind(culprit.kind), culprit.name)
        }
        CulpritKind::Workload => "other threads of its process".into(),
        CulpritKind::Timer => "the timer interrupt".into(),
        CulpritKind::Idle => "an idle CPU waking up".into(),
        CulpritKind::Stolen => "the hypervisor".into(),
        CulpritKind::Unknown => "unknown".into(),
        CulpritKind::Others => "others".into(),
        _ => name(culprit),
    }
}

/// A culprit's ink and the glyph that tells the same without colours. CPU bars use the same for
/// the kernel, interrupts and the hypervisor.
#[must_use]
pub fn mark(kind: CulpritKind) -> (Ink, char) {
    match kind {
        CulpritKind::Class => (Ink::User, '|'),
        CulpritKind::Program => (Ink::Bad, '@'),
        CulpritKind::Workload => (Ink::Realtime, '='),
        CulpritKind::Kernel => (Ink::System, '#'),
        CulpritKind::HardInterrupt | CulpritKind::SoftInterrupt => (Ink::Irq, '*'),
        CulpritKind::Timer => (Ink::Irq, '+'),
        CulpritKind::Idle => (Ink::Faint, '.'),
        CulpritKind::Stolen => (Ink::Steal, '%'),
        CulpritKind::Others => (Ink::Plain, '-'),
        CulpritKind::Unknown => (Ink::Faint, '?'),
    }
}

/// A cause in two words.
#[must_use]
pub fn cause(cause: CauseKind) -> &'static str {
    match cause {
        CauseKind::RanBehind => "ran behind",
        CauseKind::Throttled => "throttled",
        CauseKind::Stolen => "stolen",
        CauseKind::Interrupts => "interrupts",
        CauseKind::Memory => "memory",
        CauseKind::Disk => "disk",
        CauseKind::Blocked => "blocked",
        CauseKind::OwnCost => "own cost",
        CauseKind::Gpu => "GPU",
        CauseKind::ReleasedLate => "released late",
        CauseKind::JobBefore => "job before",
    }
}

/// `whisper-server/decode`, or the process alone where its thread has the same name.
#[must_use]
pub fn thread(process: &str, thread: &str) -> String {
    if process == thread || thread.is_empty() {
        process.to_owned()
    } else {
        format!("{process}/{thread}")
    }
}
