"""All metrics, declared and described in one place. Labels never hold ids or prompts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, Info

from worker.errors import ErrorCode
from worker.job import Lane

# The default buckets end at 10 s, but a refined picture that waits in a queue takes minutes.
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# These three keep the names of the original service, without the `sdxl_worker_` prefix.
REQUESTS = Counter("image_generation_requests", "Generation requests taken from Kafka", ["priority"])
DURATION = Histogram(
    "image_generation_duration_seconds", "From the first step to the pixels", ["priority"], buckets=_SECONDS
)
ERRORS = Counter("image_generation_errors", "Generation requests that failed", ["priority", "error_code"])

WAIT = Histogram("sdxl_worker_wait_seconds", "From the request to its first step", ["priority"], buckets=_SECONDS)
PHASE = Histogram(
    "sdxl_worker_phase_seconds",
    "Time per phase: look_up (of a stored result), encode_text, merge (of LoRAs), step, decode, encode, upload, "
    "publish",
    ["phase"],
    buckets=_SHORT,
)
QUEUE = Gauge("sdxl_worker_queue_jobs", "Jobs by lane and state, in the engine or queued for it", ["priority", "state"])
OLDEST = Gauge("sdxl_worker_queue_oldest_seconds", "Age of the oldest job that has not started", ["priority"])
STEPS = Counter("sdxl_worker_steps", "UNet calls")
ROW_STEPS = Counter("sdxl_worker_row_steps", "Rows over all UNet calls")
FREE_SLOTS = Counter("sdxl_worker_free_row_steps", "Empty slots over all UNet calls")
PREEMPTIONS = Counter("sdxl_worker_preemptions", "Rows that were parked in favour of more urgent ones")
COMPILED_BUCKETS = Gauge("sdxl_worker_compiled_buckets", "Shapes of UNet calls that run on the fast path")
COMPILED_FALLBACKS = Counter(
    "sdxl_worker_compiled_fallbacks", "Such shapes that failed or differed from the eager steps, and are drawn eagerly"
)
GPU_SECONDS = Counter("sdxl_worker_gpu_seconds", "Device time by use: useful (became a picture) or wasted", ["use"])
RESUMED_STEPS = Counter("sdxl_worker_resumed_steps", "Steps that were not repeated because a checkpoint was resumed")
MEMORY_RUNG = Gauge("sdxl_worker_memory_rung", "Current rung of the out-of-memory ladder; 0 is normal")
MEMORY = Gauge(
    "sdxl_worker_gpu_memory_bytes",
    "Device memory: free, used and total of the whole device, and the peak that torch allocated",
    ["kind"],
)
GPUS_UNUSED = Gauge("sdxl_worker_gpus_unused", "GPUs that the process sees and neither it nor a sibling uses")
GPU_ANSWERS = Gauge("sdxl_worker_gpu_answers", "1 while NVML answers for the device; 0: it fell off the bus", ["gpu"])
GPU_MEMORY_ERRORS = Gauge(
    "sdxl_worker_gpu_uncorrected_errors",
    "Uncorrected errors of the device's memory since its driver was loaded",
    ["gpu"],
)
GPU_BUSY = Gauge(
    "sdxl_worker_gpu_utilization_ratio", "Share of NVML's last sampling period in which the device was busy", ["gpu"]
)
LORAS = Gauge("sdxl_worker_loras_loaded", "LoRAs in the cache")
LORA_LOADS = Counter("sdxl_worker_lora_loads", "LoRA files read because the cache had no copy or an outdated one")

READY = Gauge("sdxl_worker_ready", "1 while /ready says yes")
KAFKA_UP = Gauge("sdxl_worker_kafka_up", "1 while Kafka has answered lately")
KAFKA_ANSWER_AGE = Gauge("sdxl_worker_kafka_answer_age_seconds", "Time since a broker last answered the worker")
CLUSTER_PROBLEMS = Gauge(
    "sdxl_worker_cluster_problems", "Topics, rights or limits of the cluster that keep the worker from working"
)
UPLOADS = Counter("sdxl_worker_uploads", "Pictures stored, and attempts that failed, by result", ["result"])
STORE_UP = Gauge("sdxl_worker_store_up", "1 while S3 answers")
STORE_REQUEST = Histogram(
    "sdxl_worker_store_request_seconds", "Time of one request to S3: get, head, put", ["operation"], buckets=_SHORT
)
DEAD_LETTERS = Counter("sdxl_worker_dead_letters", "Records sent to the dead-letter topic")
FLUSHES = Counter("sdxl_worker_flushes", "Publishing flushes by result: committed, aborted", ["result"])
TRANSACTION = Histogram(
    "sdxl_worker_transaction_seconds",
    "From the look into the books to the end of a flush, by result: committed, failed",
    ["result"],
    buckets=(*_SHORT, 60),
)
SETTLE = Histogram(
    "sdxl_worker_settle_seconds", "Waits in a rebalance for a flush that was under way", buckets=(*_SHORT, 60)
)
SETTLE_TIMEOUTS = Counter("sdxl_worker_settle_timeouts", "Such waits that ended the process, since the flush hung")
REOPENED = Counter(
    "sdxl_worker_partitions_reopened", "Partitions opened again because they brought nothing though there was more"
)
MEMBERS_REPLACED = Counter(
    "sdxl_worker_members_replaced", "Group members that gave up for good; others took their places"
)
UNOWNED_RESULTS = Counter("sdxl_worker_discarded_results", "Results of partitions that are no longer owned")
BLOCKED = Gauge("sdxl_worker_blocked_outcomes", "Outcomes that the brokers refuse; their partitions are held back")
LEFT_OUT = Counter("sdxl_worker_unwritten_records", "Status records left out, and results replaced by smaller ones")
PUBLISHING_FAILS = Gauge(
    "sdxl_worker_publishing_failing_seconds", "How long the present flush has been failing; 0 while flushes succeed"
)
REPUBLISHED = Counter("sdxl_worker_republished", "Stored results published again for a repeated job id")
CRASH_LOOPS = Counter("sdxl_worker_crash_loops", "Jobs that failed because they repeatedly took the process down")
SUSPECTS = Gauge("sdxl_worker_suspects_waiting", "Jobs that were started before, never ended, and wait to be started")
PAUSED = Gauge("sdxl_worker_paused_partitions", "Partitions paused because a buffer is full")
UNFINISHED = Gauge("sdxl_worker_unfinished_jobs", "Jobs between consume and commit")
# These use the names that existing lag dashboards expect (kafka_exporter, Strimzi).
LAG = Gauge(
    "kafka_consumergroup_lag",
    "Records from the lowest unfinished one to the end of the partition",
    ["consumergroup", "topic", "partition"],
)
LAG_SECONDS = Gauge(
    "kafka_consumergroup_lag_seconds",
    "Age of the oldest unfinished record of the partition",
    ["consumergroup", "topic", "partition"],
)
LOST_OFFSETS = Counter(
    "sdxl_worker_lost_offsets",
    "Offsets that were gone before they were finished, by cause: retention, lost_end (an unclean leader election)",
    ["cause"],
)
ASSIGNED = Gauge("sdxl_worker_assigned_partitions", "Partitions that this worker owns", ["topic"])
CANCELLATIONS = Counter("sdxl_worker_cancellations", "Cancellation records by result: read, unreadable", ["result"])
CANCELLATIONS_EVICTED = Counter(
    "sdxl_worker_cancellations_evicted", "Cancellations that are no longer known, because too many others came"
)
CANCELLATIONS_HELD = Gauge("sdxl_worker_cancellations_held", "Cancellations that wait for the schema registry")
CANCELLATIONS_UP = Gauge("sdxl_worker_cancellations_up", "1 while the cancellations topic can be read")
WEBHOOKS = Counter("sdxl_worker_webhooks", "Webhook attempts by result: delivered, retried, given_up", ["result"])
WEBHOOK_SECONDS = Histogram(
    "sdxl_worker_webhook_seconds", "Time of one request to the webhook receiver", buckets=(*_SHORT, 60, 120)
)
WEBHOOKS_WAITING = Gauge("sdxl_worker_webhooks_waiting", "Results that were read and are not delivered yet")
WEBHOOK_RECEIVER_UP = Gauge("sdxl_worker_webhook_receiver_up", "1 while the webhook receiver answers")
WEBHOOKS_READY = Gauge("sdxl_worker_webhooks_ready", "1 while /ready of the deliverer says yes")

HTTP_REQUESTS = Counter("sdxl_gateway_requests", "Requests to the gateway, by path and answer", ["route", "status"])
HTTP_SECONDS = Histogram(
    "sdxl_gateway_request_seconds", "From a request to the first byte of its answer", ["route"], buckets=_SHORT
)
HTTP_REFUSED_TOKENS = Counter("sdxl_gateway_refused_tokens", "Requests without a token that is known")
GATEWAY_READY = Gauge("sdxl_gateway_ready", "1 while /ready of the gateway says yes")
GATEWAY_STREAMS = Gauge("sdxl_gateway_streams", "Open event streams")
GATEWAY_JOBS = Gauge(
    "sdxl_gateway_jobs",
    "Jobs that the gateway knows to wait or to run, also while no worker is there",
    ["priority", "state"],
)
GATEWAY_SEND = Histogram(
    "sdxl_gateway_send_seconds",
    "From a request or cancellation to Kafka's answer, by result: sent, not_sent",
    ["result"],
    buckets=_SHORT,
)
DISPATCH_WAITING = Gauge(
    "sdxl_worker_dispatch_waiting_requests", "Requests in the dispatcher that no worker has room for", ["priority"]
)
DISPATCH_WAIT = Histogram(
    "sdxl_worker_dispatch_wait_seconds", "From the reading of a request to its sending", ["priority"], buckets=_SHORT
)
DISPATCH_WORKERS = Gauge(
    "sdxl_worker_dispatch_workers",
    "Workers that are sent work (reporting; of these, full: no room for a normal request, idle: no work), that take "
    "nothing, since they drain or are not ready (refusing), and that no longer report (silent)",
    ["state"],
)
DISPATCH_OLDEST = Gauge(
    "sdxl_worker_dispatch_oldest_seconds", "Time in the dispatcher of the request that was read first", ["priority"]
)
DISPATCH_WORK = Gauge(
    "sdxl_worker_dispatch_work_seconds",
    "Unfinished work of the reporting worker that has the least, and of the one that has the most",
    ["bound"],
)
COST = Counter("sdxl_worker_cost_dollars", "Device time priced with GPU_HOURLY_USD")
MODEL = Info("sdxl_worker_model", "The loaded model")


def _begin_at_zero() -> None:
    """Create the series before the first event, because `rate` ignores the first value of a series."""
    for result in ("read", "unreadable"):
        CANCELLATIONS.labels(result)
    CANCELLATIONS_UP.set(1)
    for lane in Lane:
        REQUESTS.labels(lane.label)
        DURATION.labels(lane.label)
        WAIT.labels(lane.label)
        DISPATCH_WAIT.labels(lane.label)
        for code in ErrorCode:
            ERRORS.labels(lane.label, code.value)
    for result in ("stored", "retried"):
        UPLOADS.labels(result)
    for operation in ("get", "head", "put"):
        STORE_REQUEST.labels(operation)
    for cause in ("retention", "lost_end"):
        LOST_OFFSETS.labels(cause)
    for result in ("committed", "aborted"):
        FLUSHES.labels(result)
    for result in ("committed", "failed"):
        TRANSACTION.labels(result)
    for result in ("delivered", "retried", "given_up"):
        WEBHOOKS.labels(result)
    WEBHOOK_RECEIVER_UP.set(1)
    for result in ("sent", "not_sent"):
        GATEWAY_SEND.labels(result)
    for use in ("useful", "wasted"):
        GPU_SECONDS.labels(use)
    # A gauge's default of 0 would mean that S3, or Kafka, is down before anybody has asked.
    STORE_UP.set(1)
    KAFKA_UP.set(1)


_begin_at_zero()
