"""How much work a job is, and what a worker must have merged for it; the same for dispatchers and workers. Pure."""

from __future__ import annotations

from worker.job import Job

# A standard picture: 30 guided steps at 1024 x 1024.
_STEPS = 30
STANDARD_SIDE = 1024


def pictures(job: Job) -> float:
    """The work of a job in standard pictures."""
    samples = 2 if job.guided else 1
    return job.num_inference_steps * job.request.width * job.request.height * samples / (2 * _STEPS * STANDARD_SIDE**2)


def lora_set(job: Job) -> str:
    """The name of a job's LoRA set; empty for none. Two jobs with the same set need no change in between."""
    return ",".join(f"{name}:{weight:g}" for name, weight in job.loras)
