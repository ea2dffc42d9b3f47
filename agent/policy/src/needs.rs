//! Which facts the rules ask for, so that what nobody asks for is not read.

use std::collections::BTreeSet;

/// Facts that cost more than a look at `/proc/PID/stat`, `status`, `cmdline`, `exe` and `cgroup`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Names of the environment variables that a rule looks at.
    pub env: BTreeSet<String>,
    /// [`crate::ProcessFacts::uses`].
    pub uses: bool,
    /// [`crate::ProcessFacts::maps`].
    pub maps: bool,
    /// [`crate::ProcessFacts::ancestors`].
    pub ancestors: bool,
    /// Of a container more than its engine and id: name, image, pod, namespace, labels.
    pub containers: bool,
}
