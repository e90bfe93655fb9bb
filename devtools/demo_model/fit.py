"""Training loop of base and refiner: noise latents, predict their velocity, and average the weights."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from diffusers import EulerDiscreteScheduler
from torch import nn
from torch.nn import functional

from devtools.demo_model.scenes import Scene
from worker.training.progress import StageProgress

BATCH = 32
_EMA_DECAY = 0.999

# Maps numbers that are uniform in [0, 1) to timesteps.
Spread = Callable[[torch.Tensor], torch.Tensor]


class Trainee(Protocol):
    """A UNet and the encoders of its conditioning."""

    def modules(self) -> Sequence[nn.Module]:
        """Return the modules that are trained."""

    def condition(self, rng: random.Random, scenes: Sequence[Scene]) -> Any:
        """Return the conditioning for pictures of these scenes, as `predict` takes it."""

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        """Return the UNet's output, (n, 4, h, w) float32."""


def build_scheduler() -> EulerDiscreteScheduler:
    """Build the scheduler with DDPM's linear betas (arXiv:2006.11239), which end in pure noise.

    SDXL's own betas leave some signal at the last timestep. With latents as small as these, the mean colour would
    remain visible, and every sample would start from grey (arXiv:2305.08891).
    """
    scheduler = EulerDiscreteScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    # As in SDXL's own configuration. Schedulers are built from this one, and DDIM and DDPM clip by default.
    scheduler.register_to_config(clip_sample=False, set_alpha_to_one=False)
    return scheduler


def fit(
    trainee: Trainee,
    scenes: Sequence[Scene],
    latents: torch.Tensor,
    *,
    steps: int,
    spread: Spread,
    learning_rate: float,
    seed: int,
    progress: StageProgress,
) -> None:
    """Train in place; the modules have the moving average of their weights at the end.

    Args:
        trainee: the model to train.
        scenes: the scenes of the pictures.
        latents: latents of the pictures, scaled to unit deviation, (scenes, 4, h, w).
        steps: number of optimiser steps, of `BATCH` captions each.
        spread: distribution of the timesteps that are trained.
        learning_rate: highest learning rate, reached soon after the start.
        seed: seed of captions, noise and order.
        progress: called with the steps done, the total steps and the loss.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    scheduler = build_scheduler()
    modules = trainee.modules()
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    average = Average(modules)
    for module in modules:
        module.train()
    for step in range(steps):
        which = torch.randint(len(scenes), (BATCH,), generator=generator)
        conditioning = trainee.condition(rng, [scenes[i] for i in which.tolist()])
        noisy, timesteps, velocity = diffuse(scheduler, latents[which], spread, generator)
        loss = functional.mse_loss(trainee.predict(noisy, timesteps, conditioning), velocity)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average.update(step)
        progress(step + 1, steps, loss.item())
    average.copy_back()
    for module in modules:
        module.eval().requires_grad_(False)


def diffuse(
    scheduler: EulerDiscreteScheduler, latents: torch.Tensor, spread: Spread, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Add noise to each of `latents`, at a timestep of its own.

    Returns:
        The noisy latents, the timesteps (n,), and the velocity to predict (arXiv:2202.00512).
    """
    count = len(latents)
    offsets = torch.rand(count, generator=generator)
    timesteps = spread((torch.arange(count) + offsets) / count).long()
    alphas = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=generator)
    signal, share = alphas.sqrt(), (1 - alphas).sqrt()
    return signal * latents + share * noise, timesteps, signal * noise - share * latents


class Average:
    """The exponential moving average of weights; it gives better pictures than the last weights (arXiv:2312.02696)."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._averages = [copy.deepcopy(module).requires_grad_(False) for module in modules]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after `step`; faster at the beginning, when the weights are still poor."""
        decay = min(_EMA_DECAY, (1 + step) / (10 + step))
        for average, module in zip(self._averages, self._modules, strict=True):
            for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)

    def copy_back(self) -> None:
        """Copy the average into the modules."""
        for average, module in zip(self._averages, self._modules, strict=True):
            module.load_state_dict(average.state_dict())
