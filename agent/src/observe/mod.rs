//! Reading the host: the only place that does. Knows no policy.

pub mod btf;
pub mod gpu;
pub mod host;
pub mod kernel;
pub mod own;
pub mod policy_files;
pub mod process;
pub mod system;
