//! Every metric family that the agent exposes.
//!
//! Names are without the prefix `downbeat_` and without their unit, which the exposition adds.

use downbeat_openmetrics::families;

families! {
    BUILD = Info "build" ["version" "kernel"]
        "The agent's version and the release of the kernel it runs on.";
    UPTIME = Gauge "uptime" "seconds" []
        "Time since the agent started.";
    TICKS = Counter "ticks" []
        "Ticks of the agent; one that stands still means a hung agent.";
    MODE = Gauge "mode" ["mode"]
        "1 for what the agent does with its decisions (engaged, paused or observe_only), else 0.";
    SOURCE = Gauge "source" ["source"]
        "1 for where the view of the scheduler comes from (bpf or procfs), else 0.";
    NOTICES = Gauge "notices" ["severity"]
        "Notices that stand at the moment, by severity (info, warning, error).";

    POLICY_RULES = Gauge "policy_rules" []
        "Rules of the policy in force.";
    POLICY_READ = Gauge "policy_read_timestamp" "seconds" []
        "When the policy in force was read, in seconds since 1970.";
    POLICY_RELOADS = Counter "policy_reloads" ["result"]
        "Readings of the policy's files: taken over (accepted, the first one included) or refused.";
    POLICY_PROBLEMS = Gauge "policy_problems" []
        "Problems for which the policy on disk is not the one in force; 0 when it is.";
    OVERRIDES = Gauge "overrides" []
        "Processes that a person gave a class by hand.";

    CLASS = Info "class" ["class" "modality" "tier" "sched"]
        "What the policy says of a class.";
    CLASS_DEADLINE = Gauge "class_deadline" "seconds" ["class"]
        "Deadline of a class by the policy; absent where it has none.";
    CLASS_PROCESSES = Gauge "class_processes" ["class"]
        "Processes with at least one thread in the class.";
    CLASS_THREADS = Gauge "class_threads" ["class"]
        "Threads in the class.";
    CLASS_CPUS = Gauge "class_used_cpus" ["class"]
        "CPU use of the class over the last tick, in CPUs (1 is one CPU full).";
    CLASS_FRAMES = Counter "class_frames" ["class"]
        "Frames that the class completed; absent where nothing measures them.";
    CLASS_MISSED = Counter "class_missed_frames" ["class"]
        "Frames of the class that came later than their deadline.";
    CLASS_CPU_SHARE = Gauge "class_cpu" "ratio" ["class" "cpu"]
        "Share of the CPU that the class's threads used over the last tick; absent where nothing counts it exactly.";
    CLASS_PERIODS = Counter "class_quota_periods" ["class"]
        "Periods of CPU quotas that passed, over the class's control groups and all above them.";
    CLASS_THROTTLED_PERIODS = Counter "class_throttled_periods" ["class"]
        "Of these, those in which a quota was used up.";
    CLASS_THROTTLED = Counter "class_throttled" "seconds" ["class"]
        "Time in which CPU quotas held the class's control groups or those above them back, summed over CPUs.";
    CLASS_LIMITED = Gauge "class_quota_groups" ["class"]
        "Control groups with a CPU quota among the class's groups and all above them.";
    CLASS_PRESSURE = Gauge "class_pressure" "ratio" ["class" "resource" "kind"]
        "Share of the last tick in which tasks waited for the resource (some task, or all: full), in the control group of the class where it was highest.";
    CLASS_GPU_MEMORY = Gauge "class_gpu_memory" "bytes" ["class"]
        "GPU memory of the class's processes over all GPUs; absent where the driver tells none.";
    WAIT = Histogram "run_queue_wait" "seconds" ["class"]
        "Run-queue wait of the class's threads, from runnable (woken or preempted) to running.";

    JOBS = Counter "jobs" ["class"]
        "Jobs that the class's threads completed, each from its release to its next sleep.";
    JOB_MISSES = Counter "job_misses" ["class"]
        "Of these, those that were completed after their deadline.";
    JOB_LATE_STARTS = Counter "job_late_starts" ["class"]
        "Of the missed ones, those that would have been in time had they started when released.";
    JOB_RESPONSE = Histogram "job_response" "seconds" ["class"]
        "Response time of the class's jobs, from release to completion.";
    SLEEPLESS = Gauge "class_sleepless_threads" ["class"]
        "Threads of a class with frames that have not slept for 2 s or more: their frames cannot be told apart, so they show neither jobs nor misses.";
    MISS_CAUSES = Counter "miss_causes" ["class" "cause"]
        "Misses by their one cause (ran_behind, throttled, stolen, interrupts, memory, disk, blocked, own_cost, gpu or released_late); without class for threads that are only watched.";
    WAIT_BLAME = Counter "wait_blame" "seconds" ["class" "culprit_kind" "culprit"]
        "Time that the class's threads were ready and did not run, by who had the CPU; at most 32 culprits a class by name, the rest as others.";

    ACTIONS = Counter "actions" ["lever" "outcome"]
        "Values set (applied), refused by the kernel (failed), put back (restored) and left to someone else who changed them after us (handed_off).";
    JOURNAL = Gauge "journal_entries" []
        "Changed values that would go back if the agent stopped now.";
    JOURNAL_FAILURES = Counter "journal_failures" []
        "Writes to the journal that failed: what was to be set was not.";
    EXEC_TO_SET = Gauge "exec_to_set" "seconds" ["quantile"]
        "Time from exec in the kernel to the last thread set, since the agent started.";
    EXEC_TO_SET_COUNT = Counter "exec_to_set_processes" []
        "Processes that were set after their exec.";

    AGENT_CPU = Counter "agent_cpu" "seconds" []
        "CPU time of the agent itself.";
    AGENT_MEMORY = Gauge "agent_resident_memory" "bytes" []
        "Resident memory of the agent itself.";
    BPF_SECONDS = Counter "bpf_run" "seconds" ["program"]
        "Run time of a kernel program, scaled up from samples.";
    BPF_RUNS = Counter "bpf_runs" ["program"]
        "Runs of a kernel program, scaled up from samples.";
    BPF_DROPPED_EVENTS = Counter "bpf_dropped_events" []
        "Events that did not fit into the ring buffer; the next scan of /proc makes up for them.";
    BPF_DROPPED_THREADS = Counter "bpf_dropped_threads" []
        "Managed threads that did not fit into the thread map and are not measured.";
    BPF_DISCARDED = Counter "bpf_discarded_samples" []
        "Waits thrown away because the clock ran backwards.";
    BPF_DROPPED_JOBS = Counter "bpf_dropped_jobs" []
        "Threads whose jobs are not followed since the table of jobs was full.";
    BPF_DROPPED_BLAME = Counter "bpf_dropped_blame" []
        "Times that a culprit found no place in the table of blame; what it ran counts as unknown.";
    BPF_UNSEEN_WAKES = Counter "bpf_unseen_wakes" []
        "Threads that slept and ran again without a wake-up that the kernel programs saw.";
    BPF_DROPPED_CHILDREN = Counter "bpf_dropped_children" []
        "Processes whose origin found no place: after a kill of the agent they are found by their parents alone.";
    BPF_MAPS = Gauge "bpf_maps" "bytes" []
        "Memory of all maps of the kernel programs.";

    CPU_BUSY = Gauge "cpu_busy" "ratio" ["cpu"]
        "Share of the last tick in which the CPU ran anything.";
    CPU_STEAL = Gauge "cpu_steal" "ratio" ["cpu"]
        "Share of the last tick that the hypervisor took from the CPU.";
    CPU_SECONDS = Counter "cpu" "seconds" ["cpu" "mode"]
        "Time of the CPU by mode (user, nice, system, idle, iowait, irq, softirq, steal) since boot; irq and softirq are hard and soft interrupts.";
    INTERRUPTS = Counter "interrupts" ["source"]
        "Hard interrupts of devices (device) and of the processor itself (system: timer, rescheduling, function calls).";
    SOFTIRQS = Counter "softirqs" ["softirq"]
        "Soft interrupts by the kernel's name.";
    STALLED = Counter "pressure_stalled" "seconds" ["resource" "kind"]
        "Time in which tasks waited for the resource since boot: at least one (some), or all that had work (full).";
    PRESSURE = Gauge "pressure" "ratio" ["resource"]
        "Share of the last 10 s in which some task waited for the resource (PSI some avg10).";

    GPU_UTILIZATION = Gauge "gpu_utilization" "ratio" ["uuid" "name"]
        "Share of time in which a kernel ran on the GPU.";
    GPU_MEMORY_UTILIZATION = Gauge "gpu_memory_utilization" "ratio" ["uuid" "name"]
        "Share of time in which the GPU's memory was read or written.";
    GPU_MEMORY_USED = Gauge "gpu_memory_used" "bytes" ["uuid" "name"]
        "GPU memory in use.";
    GPU_MEMORY_TOTAL = Gauge "gpu_memory_total" "bytes" ["uuid" "name"]
        "GPU memory in all.";
    GPU_TEMPERATURE = Gauge "gpu_temperature" "celsius" ["uuid" "name"]
        "Temperature of the GPU.";
    GPU_POWER = Gauge "gpu_power" "watts" ["uuid" "name"]
        "Power that the GPU draws.";
    GPU_POWER_LIMIT = Gauge "gpu_power_limit" "watts" ["uuid" "name"]
        "Power limit that the driver enforces.";
    GPU_PROCESSES = Gauge "gpu_processes" ["uuid" "name"]
        "Processes with a context on the GPU.";

    POOL_UP = Gauge "pool_up" []
        "1 while the pool's own process runs, 0 while the agent waits to restart it.";
    WORKER_STATE = Gauge "pool_worker_state" ["worker" "state"]
        "1 for where the worker stands (starting, ready, backoff, failed or stopped), else 0.";
    WORKER_RESTARTS = Counter "pool_worker_restarts" ["worker"]
        "Restarts of the worker since the pool started.";
    WORKER_FRAMES = Counter "pool_worker_frames" ["worker"]
        "Frames that the worker processed; absent where it does not count them.";
    WORKER_MISSED = Counter "pool_worker_missed_frames" ["worker"]
        "Frames later than their deadline, by the worker's own clock.";
    WORKER_COMPUTE = Gauge "pool_worker_compute" "seconds" ["worker" "quantile"]
        "Computation of one frame over the last seconds, by the worker's own clock.";
}

/// Upper bounds of the histograms' buckets in nanoseconds, each a power of two: 1 µs to
/// 8.6 s. They stay as they are whatever the kernel side counts in, since a recording rule over
/// buckets breaks when they move.
pub(super) const WAIT_BOUNDS_NS: [u64; 24] = {
    let mut bounds = [0; 24];
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = 1024 << index;
        index += 1;
    }
    bounds
};
