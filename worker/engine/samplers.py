"""The noise schedule of one row: coefficients for the default scheduler, a diffusers scheduler object for the others.

The default scheduler, DPM++ 2M Karras (Lu et al. 2022, arXiv:2211.01095; Karras et al. 2022), is linear in its inputs,
with coefficients that depend only on the step. They are computed once per schedule from diffusers' own scheduler, and
`batched_sampler.py` advances all rows in one update, in diffusers' order of operations, so that the bits are the same
as diffusers'. Rows of every other scheduler have a diffusers object each and are stepped one by one.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from cachetools import LRUCache

from worker.engine.cost import Stage
from worker.job import SCHEDULERS
from worker.presets import Preset

_KARRAS_2M = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "use_karras_sigmas": True,
    # diffusers allows one kind of sigmas only, and a base's configuration may name another.
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
}

# Options that are passed to diffusers in addition to the model's own scheduler configuration.
_OPTIONS: dict[str, dict[str, Any]] = {
    "DPMSolverMultistepScheduler": _KARRAS_2M,
    # diffusers sets this itself for a schedule that ends at sigma 0, but logs a warning each time.
    "DPMSolverSinglestepScheduler": _KARRAS_2M | {"lower_order_final": True},
    "PNDMScheduler": {"skip_prk_steps": True},
}

# These warn of explicit timesteps that they do not expect, which is what some presets were distilled for.
for _module in ("scheduling_lcm", "scheduling_tcd"):
    logging.getLogger(f"diffusers.schedulers.{_module}").setLevel(logging.ERROR)

# Share of the noise schedule that the base runs before the refiner takes over (ensemble of experts; SDXL paper,
# arXiv:2307.01952, section 2.5).
HANDOVER = 0.8


def build_scheduler(name: str, config: Any, preset: Preset | None = None) -> Any:
    """Build a diffusers scheduler of class `name` from the model's scheduler configuration, spaced as `preset` says.

    Raises:
        ValueError: `name` is not one of `SCHEDULERS`, or does not know a base of this kind.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"scheduler {name!r} is not offered")
    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    options = _OPTIONS.get(name, {})
    if "clip_sample" in known:
        # Latents are not bounded by 1 as pixels are; where a configuration leaves the key out, DDIM and DDPM clip.
        options = options | {"clip_sample": False}
    if preset is not None and preset.timestep_spacing is not None:
        options = options | {"timestep_spacing": preset.timestep_spacing}
    if _ends_without_signal(config):
        if "rescale_betas_zero_snr" not in known:
            raise ValueError("it does not know zero terminal SNR, with which this base was trained")
        # Karras' sigmas would begin at 4096, the stand-in for infinity, and spend most steps there.
        options = options | {"use_karras_sigmas": False}
    return kind.from_config(config, **{option: value for option, value in options.items() if option in known})


def guidance_rescale(config: Any) -> float:
    """Return how much of the guided prediction's contrast is taken back: none but with zero terminal SNR.

    The value is that of Lin et al. 2023 (arXiv:2305.08891, section 3.4).
    """
    return 0.7 if _ends_without_signal(config) else 0.0


def _ends_without_signal(config: Any) -> bool:
    return bool(config.get("rescale_betas_zero_snr"))


def make_scheduler(name: str, config: Any, preset: Preset | None = None) -> Any:
    """Like `build_scheduler`, but return a copy of a cached one; building a KDPM2 scheduler takes 0.1 s."""
    key = (name, repr(config), preset and preset.timestep_spacing)
    if key not in _built:
        _built[key] = build_scheduler(name, config, preset)
    return copy.deepcopy(_built[key])


# Room for every scheduler with two model configurations (base and refiner), and as many again.
_built: LRUCache[Hashable, Any] = LRUCache(4 * len(SCHEDULERS))


def set_timesteps(scheduler: Any, steps: int, preset: Preset | None = None, device: torch.device | None = None) -> None:
    """Give `scheduler` its schedule: that of `preset`, where it names timesteps, else one of so many steps.

    Raises:
        ValueError, IndexError: the scheduler cannot make such a schedule.
    """
    if preset is not None and preset.timesteps:
        scheduler.set_timesteps(timesteps=list(preset.timesteps), device=device)
    else:
        scheduler.set_timesteps(steps, device=device)


def _cutoff(scheduler: Any) -> int:
    trained: int = scheduler.config.num_train_timesteps
    return round(trained - HANDOVER * trained)


def window(scheduler: Any, stage: Stage, *, refined: bool) -> tuple[int, int]:
    """Return the first and the last index (exclusive) of the timesteps that `stage` runs.

    The schedule is split by timestep, as in `StableDiffusionXLPipeline.__call__` (`denoising_end`) and
    `StableDiffusionXLImg2ImgPipeline.get_timesteps` (`denoising_start`).
    """
    timesteps = scheduler.timesteps
    if not refined:
        return 0, len(timesteps)
    below = int((timesteps < _cutoff(scheduler)).sum())
    if stage is Stage.BASE:
        return 0, len(timesteps) - below
    if scheduler.order == 2 and below % 2 == 0:
        below += 1
    return len(timesteps) - below, len(timesteps)


@dataclass(slots=True)
class Sampler:
    """The noise schedule of a row, and its position in it.

    `timesteps` has one entry per UNet call of this stage. `table` is None for a scheduler that is stepped by diffusers;
    otherwise it holds the coefficients of each step, float32 (steps, 6): sigma and alpha at the current timestep, then
    the factors of the sample, of the newest x0 and of the x0 difference, and 1/r0. `previous` holds the x0 of the last
    step for all rows of its batch, and this row's index in it.
    """

    scheduler: Any
    timesteps: torch.Tensor
    table: torch.Tensor | None
    extra: dict[str, Any]
    index: int = 0
    previous: tuple[torch.Tensor, int] | None = None

    @property
    def over(self) -> bool:
        return self.index >= len(self.timesteps)

    @property
    def timestep(self) -> torch.Tensor:
        """The current timestep, 0-dimensional."""
        return self.timesteps[self.index]

    def model_input(self, latents: torch.Tensor) -> torch.Tensor:
        """Scale `latents`, (1, C, h, w), as the UNet expects them at this step."""
        if self.table is not None:
            return latents
        scaled: torch.Tensor = self.scheduler.scale_model_input(latents, self.timestep)
        return scaled

    def save(self) -> tuple[Any, torch.Tensor | None]:
        """Return the state that `load` needs to undo a diffusers step that fails part-way."""
        state = {k: list(v) if isinstance(v, list) else v for k, v in vars(self.scheduler).items()}
        generator = self.extra.get("generator")
        return state, None if generator is None else generator.get_state()

    def load(self, saved: tuple[Any, torch.Tensor | None]) -> None:
        """Restore the state that `save` returned."""
        state, generator_state = saved
        vars(self.scheduler).clear()
        vars(self.scheduler).update(state)
        if generator_state is not None:
            self.extra["generator"].set_state(generator_state)

    def step(self, noise: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Run one diffusers step for this row; `noise`, `latents` and the result are (1, C, h, w)."""
        stepped: torch.Tensor = self.scheduler.step(noise, self.timestep, latents, **self.extra, return_dict=False)[0]
        return stepped


def make_sampler(
    name: str,
    config: Any,
    steps: int,
    stage: Stage,
    *,
    refined: bool,
    device: torch.device,
    generator: torch.Generator,
    preset: Preset | None = None,
) -> Sampler:
    """Return the sampler of one row in one stage; if the stage has no steps, it is `over` from the beginning."""
    key = (name, repr(config), steps, stage, refined, device, preset)
    known = _tabled.get(key)
    if known is not None:
        return replace(known)
    scheduler = make_scheduler(name, config, preset)
    set_timesteps(scheduler, steps, preset, device)
    first, last = window(scheduler, stage, refined=refined)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    table = _table(scheduler, first, last).to(device) if _is_vectorised(scheduler) else None
    accepted = inspect.signature(scheduler.step).parameters
    eta = 0.0 if preset is None else preset.eta
    extra = {k: v for k, v in (("eta", eta), ("generator", generator)) if k in accepted}
    sampler = Sampler(scheduler, scheduler.timesteps[first:last], table, extra)
    if table is not None:
        _tabled[key] = replace(sampler, extra={})
    return sampler


# A scheduler with a table is never stepped itself, so all rows with the same schedule can share the two.
_tabled: LRUCache[Hashable, Sampler] = LRUCache(128)


def _is_vectorised(scheduler: Any) -> bool:
    config = scheduler.config
    return (
        isinstance(scheduler, diffusers.DPMSolverMultistepScheduler)
        and config.algorithm_type == "dpmsolver++"
        and config.solver_type == "midpoint"
        and config.solver_order == 2
        and config.prediction_type in ("epsilon", "v_prediction")
        and config.variance_type is None
        and not config.thresholding
        and not config.use_flow_sigmas
    )


def _table(scheduler: Any, first: int, last: int) -> torch.Tensor:
    """Compute the coefficients of steps `first` to `last` (exclusive) by DPMSolverMultistepScheduler's formulas."""
    sigmas = scheduler.sigmas.to("cpu")
    alpha, sigma = scheduler._sigma_to_alpha_sigma_t(sigmas)
    lam = torch.log(alpha) - torch.log(sigma)
    rows = []
    for i in range(first, last):
        h = lam[i + 1] - lam[i]
        newest = alpha[i + 1] * (torch.exp(-h) - 1.0)
        if i == first or (i == len(sigmas) - 2 and _ends_in_first_order(scheduler)):
            slope, inverse_r0 = torch.tensor(0.0), torch.tensor(0.0)
        else:
            slope, inverse_r0 = 0.5 * newest, 1.0 / ((lam[i] - lam[i - 1]) / h)
        rows.append(torch.stack([sigma[i], alpha[i], sigma[i + 1] / sigma[i], newest, slope, inverse_r0]))
    return torch.stack(rows) if rows else torch.empty(0, 6)


def _ends_in_first_order(scheduler: Any) -> bool:
    config = scheduler.config
    few = config.lower_order_final and len(scheduler.timesteps) < 15
    return bool(config.euler_at_final or few or config.final_sigmas_type == "zero")
