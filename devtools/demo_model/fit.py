"""The training loop that base and refiner share: noise a latent, predict its velocity, keep the average of weights."""

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

# From numbers spread evenly over [0, 1) to timesteps.
Spread = Callable[[torch.Tensor], torch.Tensor]


class Trainee(Protocol):
    """A UNet with what conditions it."""

    def modules(self) -> Sequence[nn.Module]:
        """What is trained."""

    def condition(self, rng: random.Random, scenes: Sequence[Scene]) -> Any:
        """What `predict` needs to know of the pictures."""

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        """The UNet's output, (n, 4, h, w) float32."""


def build_scheduler() -> EulerDiscreteScheduler:
    """DDPM's linear betas (arXiv:2006.11239) end in noise alone; SDXL's leave enough of the picture for so small a
    latent that its mean colour shows through, and every sample would start from grey (arXiv:2305.08891)."""
    scheduler = EulerDiscreteScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    # As SDXL's own configuration has it, for the schedulers that are built from this one: DDIM and DDPM clip otherwise.
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
    """Train in place, and leave the moving average of the weights.

    Args:
        trainee: untrained.
        scenes: what the pictures show.
        latents: theirs, scaled to unit deviation, (scenes, 4, h, w).
        steps: optimiser steps of `BATCH` captions.
        spread: which timesteps are trained, and how much.
        learning_rate: at its peak, soon after the start.
        seed: of captions, noise and order.
        progress: called with steps done, steps in all and the loss.
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
    """Noise each of `latents` to a timestep of its own.

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
    """The exponential moving average of weights, which draws better than the last of them (arXiv:2312.02696)."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._averages = [copy.deepcopy(module).requires_grad_(False) for module in modules]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights as they are after `step`; fast at first, when they are far from good."""
        decay = min(_EMA_DECAY, (1 + step) / (10 + step))
        for average, module in zip(self._averages, self._modules, strict=True):
            for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)

    def copy_back(self) -> None:
        """Put the average into the modules."""
        for average, module in zip(self._averages, self._modules, strict=True):
            module.load_state_dict(average.state_dict())
