//! GPUs through NVML.
