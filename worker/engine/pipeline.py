"""The parts of diffusers' pipelines around the loop over steps: prompts to conditioning, noise, latents to pixels.

Everything here follows `StableDiffusionXLPipeline.__call__` and, for the refiner, `StableDiffusionXLImg2ImgPipeline`
with `denoising_start`. The loop over steps is in `loop.py`, and a step in `unet_step.py` and `denoise.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.utils.torch_utils import randn_tensor

from worker.engine.checkpoint import Checkpoint
from worker.engine.cost import Group, Stage
from worker.engine.decode import Finish, begin_decode, decode
from worker.engine.embeddings import Embeddings
from worker.engine.lora.cache import LORA_CACHE_BYTES, LoraCache
from worker.engine.lora.exchange import LoraSet
from worker.engine.lora.names import COMPONENTS, TEXT_ENCODERS
from worker.engine.offload import Offload
from worker.engine.prompt import Encoded, chunks_needed, encode_text, joined, negative_text
from worker.engine.prompt_cache import PromptCache
from worker.engine.row import Conditioning, Row
from worker.engine.samplers import guidance_rescale, make_sampler, make_scheduler, set_timesteps, window
from worker.engine.schedule.rows import Segment
from worker.errors import ErrorCode, RequestRejected
from worker.job import Job, LoraMethod, effective_seed
from worker.lora_method import LoraMethods, LoraMode

# The aesthetic scores for SDXL's refiner (arXiv:2307.01952 and diffusers' defaults).
_AESTHETIC_SCORE, _NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5


@dataclass(slots=True)
class SdxlModel:
    """A loaded base pipeline, with a refiner if there is one. It must be used by one thread only.

    Args:
        base: a `StableDiffusionXLPipeline`.
        refiner: a `StableDiffusionXLImg2ImgPipeline`, or None.
        lora_dir: folder of the LoRAs, or None. LoRAs are applied to the base, never to the refiner.
        lora_cache_size: number of LoRAs that are kept loaded; None for any.
        lora_cache_bytes: what the tensors of loaded LoRAs may take, in bytes.
        lora_second_copy: keep merged weights beside the model's own (`lora/exchange.py`), which `refiner_offload` rules
            out.
        lora_methods: how the LoRAs of a job are applied.
        refiner_offload: keep only one of the refiner and the base's UNet on the device at a time (`offload.py`).
        unusable: schedulers that a stage's model cannot be drawn with, each with the reason (`trial.py`).
        embeddings: textual inversions that prompts may name (`embeddings.py`).
    """

    base: Any
    refiner: Any = None
    lora_dir: Path | None = None
    lora_cache_size: int | None = None
    refiner_offload: bool = False
    unusable: dict[tuple[Stage, str], str] = field(default_factory=dict)
    embeddings: Embeddings = field(default_factory=Embeddings)
    lora_cache_bytes: int = LORA_CACHE_BYTES
    lora_second_copy: bool = True
    lora_methods: LoraMethods = field(default_factory=LoraMethods)
    lora_cache: LoraCache = field(init=False)
    device: torch.device = field(init=False)
    _offload: Offload | None = field(init=False, default=None)
    _encoded: PromptCache = field(default_factory=PromptCache)

    def __post_init__(self) -> None:
        # The pipeline's own `device` walks through all modules, which is too slow for every step.
        self.device = self.base.unet.device
        if self.refiner is not None and self.refiner_offload:
            self._offload = self._take_turns()
        self.lora_cache = LoraCache(
            self.base,
            self.lora_dir,
            self.lora_cache_size,
            max_bytes=self.lora_cache_bytes,
            prepare=TEXT_ENCODERS if self.lora_methods.mode is LoraMode.MERGED else COMPONENTS,
            second_copy=self.lora_second_copy and self._offload is None,
            host_of=(lambda _: None) if self._offload is None else self._offload.host_of,
        )

    def _take_turns(self) -> Offload:
        # Modules that both stages use stay on the device. Loading the refiner into host memory may have moved them.
        for module in (self.base.text_encoder_2, self.base.vae, self.refiner.vae):
            module.to(self.device)
        refiner = [self.refiner.unet]
        if self.refiner.text_encoder_2 is not self.base.text_encoder_2:
            refiner.append(self.refiner.text_encoder_2)
        return Offload({Stage.BASE: [self.base.unet], Stage.REFINER: refiner}, self.device)

    def bring(self, stage: Stage) -> None:
        """Make sure that the modules of a stage are on the device.

        Raises:
            torch.OutOfMemoryError: they do not fit now; the call can be retried.
        """
        if self._offload is not None and self._offload.bring(stage) and stage is Stage.BASE:
            self.lora_cache.exchange.on_moved()

    @property
    def merges_loras(self) -> bool:
        """Whether there may be jobs whose LoRAs are merged into the weights."""
        return self.lora_dir is not None and self.lora_methods.mode is not LoraMode.HOOKS

    def unet(self, stage: Stage) -> Any:
        """Return the UNet of a stage."""
        return self._pipe(stage).unet

    def scheduler_config(self, stage: Stage) -> Any:
        """Return the model's own scheduler configuration of a stage."""
        return self._pipe(stage).scheduler.config

    def guidance_rescale(self, stage: Stage) -> float:
        """Return `guidance_rescale` of diffusers' pipelines for a stage."""
        return guidance_rescale(self.scheduler_config(stage))

    def segments(self, job: Job) -> list[Segment]:
        """Return the segments (steps per stage) that `job` needs, without any work on the GPU.

        Raises:
            RequestRejected: the scheduler cannot make the schedule, the worker has no refiner, a prompt is too long, or
                a LoRA is missing or does not fit.
        """
        request = job.request
        if job.high_quality and self.refiner is None:
            raise RequestRejected(
                ErrorCode.INVALID_REQUEST,
                "high_quality needs a refiner, but this worker has none (SDXL_REFINER_ID)",
            )
        factor = self.base.vae_scale_factor
        if request.height % factor or request.width % factor:
            raise RequestRejected(ErrorCode.INVALID_REQUEST, f"width and height must be multiples of {factor}")
        self.lora_cache.check(job.loras)
        embeddings = self._embeddings(job)
        segments = []
        for stage in (Stage.BASE, Stage.REFINER) if job.high_quality else (Stage.BASE,):
            scheduler = self._scheduler(job, stage)
            try:
                set_timesteps(scheduler, job.num_inference_steps, job.preset)
            except (ValueError, IndexError) as error:
                raise RequestRejected(
                    ErrorCode.INVALID_REQUEST,
                    f"num_inference_steps: {job.scheduler} cannot make a schedule of"
                    f" {job.num_inference_steps} steps ({error})",
                ) from error
            first, last = window(scheduler, stage, refined=job.high_quality)
            if last > first:
                chunks = chunks_needed(
                    self._pipe(stage),
                    job.prompt,
                    job.negative_prompt if job.guided else None,
                    job.prompt_syntax,
                    embeddings,
                )
                group = Group(stage, request.height // factor, request.width // factor, chunks, job.guided)
                merged = self._merged_set(job) if stage is Stage.BASE else None
                segments.append(Segment(group, last - first, merged))
        return segments

    def _scheduler(self, job: Job, stage: Stage) -> Any:
        name = job.scheduler
        reason = self.unusable.get((stage, name))
        if reason is None:
            try:
                return make_scheduler(name, self.scheduler_config(stage), job.preset)
            except (NotImplementedError, ValueError) as error:
                reason = str(error)
        raise RequestRejected(
            ErrorCode.INVALID_REQUEST,
            f"scheduler: {name} cannot draw with this worker's {stage.name.lower()}: {reason}",
        )

    def check(self, checkpoint: Checkpoint, job: Job) -> None:
        """Check that `job` can continue from `checkpoint` in this process; call `segments` for the job first.

        Raises:
            ValueError: the latents do not have the job's shape and dtype, or a LoRA file has changed.
        """
        if not checkpoint.fits(self._latents_shape(job), self.base.unet.dtype):
            raise ValueError("latents of another shape or precision")
        if checkpoint.facts.lora_fingerprints != self.lora_cache.fingerprints(job.loras):
            raise ValueError("a LoRA has changed")

    def encode(self, job: Job) -> None:
        """Encode the prompts of `job`, whose LoRAs are pinned, for `prepare` and `hand_over` to find.

        Raises:
            RequestRejected: as raised by `prepare`.
        """
        self.lora_cache.acquire(job.loras, TEXT_ENCODERS)
        try:
            for stage in (Stage.BASE, Stage.REFINER) if job.high_quality else (Stage.BASE,):
                self._encode(job, stage, job.guided)
        finally:
            self.lora_cache.release(job.loras)

    def prepare(self, job: Job, now: float) -> Row:
        """Encode the prompts and draw the initial latents, with a generator of the job's own on the CPU.

        The job's LoRAs are acquired; the owner of the row must release them.

        Raises:
            RequestRejected: `unknown_lora`, if a LoRA file was removed or no longer fits since `segments`.
        """
        self.bring(Stage.BASE)
        merged = self.lora_methods.of(job) is LoraMethod.MERGED
        self.lora_cache.acquire(job.loras, TEXT_ENCODERS if merged else COMPONENTS)
        try:
            return self._prepare(job, now)
        except BaseException:
            self.lora_cache.release(job.loras)
            raise

    def resume(self, job: Job, now: float, checkpoint: Checkpoint) -> Row:
        """Like `prepare`, but restore the row from `checkpoint`, which must have passed `check`."""
        row = self.prepare(job, now)
        try:
            self._restore(row, checkpoint)
        except BaseException:
            self.lora_cache.release(job.loras)
            raise
        return row

    def _prepare(self, job: Job, now: float) -> Row:
        generator = torch.Generator("cpu").manual_seed(effective_seed(job.seed))
        conditioning = self.condition(job, Stage.BASE)
        sampler = self._sampler(job, Stage.BASE, generator)
        shape = self._latents_shape(job)
        latents = randn_tensor(shape, generator=generator, device=self.device, dtype=conditioning.prompt.dtype)
        latents = latents * sampler.scheduler.init_noise_sigma
        return Row(job, Stage.BASE, (latents, 0), sampler, conditioning, generator, started_at=now)

    def _latents_shape(self, job: Job) -> tuple[int, int, int, int]:
        factor = self.base.vae_scale_factor
        return 1, self.base.unet.config.in_channels, job.request.height // factor, job.request.width // factor

    def _restore(self, row: Row, checkpoint: Checkpoint) -> None:
        done, base_steps = checkpoint.facts.steps_done, len(row.sampler.timesteps)
        if done >= base_steps:
            self.hand_over(row)
            done -= base_steps
        checkpoint.restore(row, done)
        row.reproducible &= self.lora_cache.fingerprints(row.job.loras) == checkpoint.facts.lora_fingerprints

    def hand_over(self, row: Row) -> None:
        """Move `row` to the refiner's stage; its latents are used unchanged. If this raises, the row is unchanged."""
        self.bring(Stage.REFINER)
        conditioning = self.condition(row.job, Stage.REFINER)
        sampler = self._sampler(row.job, Stage.REFINER, row.generator)
        row.stage, row.conditioning, row.sampler = Stage.REFINER, conditioning, sampler

    def decode(self, row: Row) -> npt.NDArray[np.uint8]:
        """Decode the row to pixels, (height, width, 3) RGB uint8 on the host; always with a batch of one.

        Raises:
            RequestRejected: `model_error`, if the picture contains NaN or has a single colour.
        """
        return decode(self.vae(row.stage), row.latents)

    def begin_decode(self, row: Row, to_host: Callable[[torch.Tensor], torch.Tensor]) -> Finish:
        """Like `decode`, but give it to the device without waiting for it (`decode.begin_decode`)."""
        return begin_decode(self.vae(row.stage), row.latents, to_host)

    def vae(self, stage: Stage) -> Any:
        """Return the VAE of a stage."""
        return self._pipe(stage).vae

    def forget_prompts(self) -> None:
        """Free the cached prompt embeddings."""
        self._encoded.clear()

    def _pipe(self, stage: Stage) -> Any:
        return self.base if stage is Stage.BASE else self.refiner

    def _sampler(self, job: Job, stage: Stage, generator: torch.Generator) -> Any:
        return make_sampler(
            job.scheduler,
            self.scheduler_config(stage),
            job.num_inference_steps,
            stage,
            refined=job.high_quality,
            device=self.device,
            generator=generator,
            preset=job.preset,
        )

    def condition(self, job: Job, stage: Stage) -> Conditioning:
        """Encode the prompts of `job` for a stage, whose modules must be on the device."""
        guided = job.guided
        prompt, negative, pooled, negative_pooled = self._encode(job, stage, guided)
        time_ids, negative_time_ids = self._time_ids(job, stage, prompt.dtype)
        merged = self._merged_set(job) if stage is Stage.BASE else None
        return Conditioning(
            job.guidance_scale,
            prompt,
            pooled,
            time_ids.to(self.device),
            negative if guided else None,
            negative_pooled if guided else None,
            negative_time_ids.to(self.device) if guided else None,
            job.loras if stage is Stage.BASE and self.lora_methods.of(job) is LoraMethod.HOOKS else (),
            merged,
        )

    def _merged_set(self, job: Job) -> LoraSet | None:
        """What a job's acquired LoRAs are merged as; None where hooks apply them, or they do not change the UNet."""
        merged = self.lora_methods.of(job) is LoraMethod.MERGED
        return self.lora_cache.merged_set(job.loras) if merged else None

    def _embeddings(self, job: Job) -> Embeddings:
        """The embeddings that a job's prompts may name; its LoRAs must be checked."""
        return self.embeddings.with_bundled(self.lora_cache.embeddings(job.loras))

    def _encode(self, job: Job, stage: Stage, guided: bool) -> Encoded:
        pipe, embeddings, syntax = self._pipe(stage), self._embeddings(job), job.prompt_syntax
        negative_prompt = job.negative_prompt if guided else None
        chunks = chunks_needed(pipe, job.prompt, negative_prompt, syntax, embeddings)
        loras = job.loras if stage is Stage.BASE else ()
        texts = [job.prompt]
        negative = negative_text(pipe, negative_prompt) if guided else None
        if negative is not None:
            texts.append(negative)
        key = (stage, syntax, chunks, self.lora_cache.text_key(loras), self.lora_cache.embeddings_key(job.loras))
        encoded = self._encoded.of(
            key,
            texts,
            lambda text: encode_text(pipe, text, chunks, self.device, syntax, embeddings),
            lambda: self.lora_cache.text(loras),
        )
        return joined(encoded[0], None if negative is None else encoded[1], guided=guided)

    def _time_ids(self, job: Job, stage: Stage, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        size = (job.request.height, job.request.width)
        pipe = self._pipe(stage)
        width = pipe.text_encoder_2.config.projection_dim
        if stage is Stage.BASE:
            ids = pipe._get_add_time_ids(size, (0, 0), size, dtype=dtype, text_encoder_projection_dim=width)
            return ids, ids
        positive, negative = pipe._get_add_time_ids(
            size,
            (0, 0),
            size,
            _AESTHETIC_SCORE,
            _NEGATIVE_AESTHETIC_SCORE,
            size,
            (0, 0),
            size,
            dtype=dtype,
            text_encoder_projection_dim=width,
        )
        return positive, negative
