//! Every metric family that the pool exposes.
//!
//! Names are without the prefix `downbeat_pool_` and without their unit, which the exposition adds.

use downbeat_openmetrics::families;

families! {
    BUILD = Info "build" ["version"]
        "The pool's version.";
    RESIDENT = Gauge "resident_memory" "bytes" []
        "Resident memory of the pool itself, without its workers.";
    CPU = Counter "cpu" "seconds" []
        "CPU time of the pool itself, without its workers.";

    MODEL = Info "model" ["model" "version" "platform"]
        "The version of the model that is served, and what runs it.";
    STATE = Gauge "model_state" ["model" "state"]
        "1 for whether the model takes requests (ready, loading, unavailable or drained), else 0.";
    BYTES = Gauge "model" "bytes" ["model"]
        "Size of the file of the version that is served; absent for what is no model of the store.";
    INSTANCES = Gauge "instances" ["model" "state"]
        "Instances of the model's worker by state (starting, ready, backoff, failed, stopped).";
    RESTARTS = Counter "restarts" ["model"]
        "Restarts of the model's instances, also of those that are no more.";

    REQUESTS = Counter "requests" ["model" "outcome"]
        "Requests that are over: answered (success), refused for want of time, room or a worker (refused), wrong (invalid), failed on a worker (failed), given up by their client (cancelled).";
    REFUSALS = Counter "refusals" ["model" "reason"]
        "The refused ones: late, full, client_share, shed, unavailable or expired.";
    WITH_DEADLINE = Counter "deadline_requests" ["model"]
        "Requests with a deadline that could have been answered: no wrong ones, and none that was given up before its deadline.";
    IN_TIME = Counter "deadline_met" ["model"]
        "Of these, those that were answered in time; the ratio is the attainment.";
    DURATION = Histogram "request_duration" "seconds" ["model"]
        "Of those answered, from arrival to answer.";
    QUEUE = Histogram "queue_duration" "seconds" ["model"]
        "Of those answered, from arrival to the start on a worker.";
    COMPUTE = Histogram "compute_duration" "seconds" ["model"]
        "Of those answered, the computation; each request of a batch counts the whole batch.";
    BATCH = Histogram "batch_requests" ["model"]
        "Requests that were computed together, by computation.";
    SOUND = Counter "audio" "seconds" ["model"]
        "How long the sound lasts that was computed; absent where it is not known.";
    SOUND_COMPUTE = Counter "audio_compute" "seconds" ["model"]
        "Its computation, of a batch its part; the ratio to how long it lasts is the real-time factor.";

    QUEUED = Gauge "queued_requests" ["model" "tier"]
        "Requests that wait now, with a deadline (deadline) and without (background).";
    RUNNING = Gauge "running_computations" ["model"]
        "Computations that run now; several requests may be in one.";
    SLOTS = Gauge "slots" ["model"]
        "Computations that its ready workers could run at a time.";
}

/// Upper bounds of the histogram of batches, in requests.
pub(super) const BATCH_BOUNDS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
