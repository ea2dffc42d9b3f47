//! Which facts the rules ask for, so that what nobody asks for is not read.

use std::collections::BTreeSet;

/// Facts that cost more than one look at `/proc/PID/stat`, `status`, `cmdline`, `exe` and `cgroup`
/// when a program starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Names of the environment variables that a rule looks at.
    pub env: BTreeSet<String>,
    /// Its user and group, which it may change after it started.
    pub owner: bool,
    /// Its control group and what follows from that, its unit and container: it may be moved.
    pub place: bool,
    /// [`crate::ProcessFacts::uses`].
    pub uses: bool,
    /// [`crate::ProcessFacts::maps`].
    pub maps: bool,
    /// [`crate::ProcessFacts::ancestors`].
    pub ancestors: bool,
    /// Of a container more than its engine and id: name, image, pod, namespace, labels.
    pub containers: bool,
}
