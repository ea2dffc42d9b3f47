//! Reading the host: the only place that does. Knows no policy.

pub mod btf;
pub mod cgroups;
pub mod containers;
pub mod frames;
pub mod gpu;
pub mod host;
pub mod interrupts;
pub mod kernel;
pub mod machine;
pub mod own;
pub mod pacer;
pub mod policy_files;
pub mod policy_watch;
pub mod pressure;
pub mod process;
pub mod run_times;
pub mod system;
pub mod uses;
pub mod whereabouts;
