"""Try the loaded model before the worker is ready: encode, one UNet call, every scheduler, decode.

A model that cannot draw at all ends the start with one line. A scheduler that cannot be built or stepped with the
model's configuration costs nobody but the requests that name it: they are refused, and the worker lives.
"""

from __future__ import annotations

import structlog
import torch
from diffusers.utils.torch_utils import randn_tensor

from worker.engine.batched_sampler import BatchedSampler
from worker.engine.cost import Stage
from worker.engine.decode import decode
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Conditioning
from worker.engine.samplers import make_sampler
from worker.errors import ModelLoadError, RequestRejected
from worker.events.types import GenerationRequest
from worker.job import SCHEDULERS, Job, Lane, Origin

# The smallest picture whose latents every level of SDXL's UNet can halve.
_SIDE_PX = 64
# Enough for the later steps of a second-order scheduler, which take another way than the first.
_STEPS = 4
_SEED = 0

# What diffusers' schedulers raise for a configuration or a step that they do not support.
_UNSUPPORTED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Of a library's message, in the answer to a request.
_MAX_REASON = 200

_log = structlog.get_logger()


@torch.inference_mode()
def try_out(model: SdxlModel, *, model_id: str, refiner_id: str | None) -> None:
    """Draw one small picture with every stage, and note in `model.unusable` which schedulers cannot.

    The UNet is called once per stage; every scheduler is stepped with what it predicted.

    Raises:
        ModelLoadError: the model cannot encode, predict or decode, does not fit into memory, or no scheduler can be
            used with it.
    """
    for stage, name in ((Stage.BASE, model_id), (Stage.REFINER, refiner_id)):
        if name is None:
            continue
        try:
            latents = _try_stage(model, stage, name)
        except torch.OutOfMemoryError as error:
            raise ModelLoadError(
                f"{name} was loaded, but a {_SIDE_PX}x{_SIDE_PX} picture needs more memory."
            ) from error
        except _UNSUPPORTED as error:
            raise ModelLoadError(f"{name} was loaded, but cannot draw: {_reason(error)}") from error
        try:
            decode(model.vae(stage), latents)
        except RequestRejected as error:
            raise ModelLoadError(f"{name} was loaded, but cannot draw: {error.message}") from error
    # Its prompt is nobody's.
    model.forget_prompts()


def _try_stage(model: SdxlModel, stage: Stage, name: str) -> torch.Tensor:
    """Return the noise that the schedulers began with, which a VAE decodes as well as anything."""
    model.bring(stage)
    conditioning = model.condition(trial_job(), stage)
    generator = torch.Generator("cpu").manual_seed(_SEED)
    unet = model.unet(stage)
    side = _SIDE_PX // model.base.vae_scale_factor
    shape = (1, unet.config.in_channels, side, side)
    latents: torch.Tensor = randn_tensor(
        shape, generator=generator, device=model.device, dtype=conditioning.prompt.dtype
    )
    predicted = _predict(unet, latents, conditioning)
    if not bool(torch.isfinite(predicted).all()):
        raise ModelLoadError(f"{name} was loaded, but its UNet returned NaN: use bfloat16 or float32.")
    usable = 0
    for scheduler in SCHEDULERS:
        try:
            _step_through(model, stage, scheduler, latents, predicted)
            usable += 1
        except torch.OutOfMemoryError:
            raise
        except _UNSUPPORTED as error:
            model.unusable[stage, scheduler] = _reason(error)
            _log.warning("scheduler_unusable", model=name, scheduler=scheduler, reason=_reason(error))
    if not usable:
        raise ModelLoadError(f"{name} cannot be drawn with any scheduler: {model.unusable[stage, SCHEDULERS[0]]}")
    return latents


def _predict(unet: torch.nn.Module, latents: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    timestep = torch.ones(1, dtype=torch.int64, device=latents.device)
    predicted: torch.Tensor = unet(
        latents,
        timestep,
        encoder_hidden_states=conditioning.prompt,
        added_cond_kwargs={"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids},
        return_dict=False,
    )[0]
    return predicted


def _step_through(
    model: SdxlModel, stage: Stage, scheduler: str, latents: torch.Tensor, predicted: torch.Tensor
) -> None:
    sampler = make_sampler(
        scheduler,
        model.scheduler_config(stage),
        _STEPS,
        stage,
        refined=False,
        device=model.device,
        generator=torch.Generator("cpu").manual_seed(_SEED),
    )
    latents = latents * sampler.scheduler.init_noise_sigma
    batched = BatchedSampler([sampler], torch.zeros(1, dtype=torch.int64, device=model.device))
    while not sampler.over:
        batched.unet_input(latents)
        latents = batched.step(predicted, latents)
    if not bool(torch.isfinite(latents).all()):
        raise ValueError("its steps yield NaN")


def trial_job() -> Job:
    """Return the request of nobody that a model is tried with."""
    request = GenerationRequest(
        job_id="trial", girl_id="trial", user_id=0, prompt="a cat", width=_SIDE_PX, height=_SIDE_PX
    )
    return Job(
        request=request,
        lane=Lane.NORMAL,
        origin=Origin("", 0, 0, 0),
        seed=_SEED,
        loras=(),
        prompt=request.prompt,
        negative_prompt="a dog",
        attempt=1,
        requested_at=0.0,
        received_at=0.0,
        expires_at=None,
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}…"
