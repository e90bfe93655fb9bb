"""Presets: how models that were distilled to few steps are sampled. Pure.

A few-step model draws a picture only with the scheduler, the timesteps and the guidance that it was trained for, so a
preset replaces what a request says about these. Each is named for the model and its number of steps; `docs/presets.md`
says how one is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# What says that no preset is used.
NO_PRESET = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The sampling that a few-step model was distilled for.

    Args:
        scheduler: a diffusers class name.
        guidance_scale: at most 1 for a model that is not guided.
        timestep_spacing: diffusers' option of that name; None: that of the model's scheduler configuration.
        timesteps: the timesteps themselves, where the recipe names them; empty: the scheduler spaces them.
        eta: share of noise of a TCD step.
    """

    name: str
    scheduler: str
    num_inference_steps: int
    guidance_scale: float = 0.0
    timestep_spacing: str | None = None
    timesteps: tuple[int, ...] = ()
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.timesteps and len(self.timesteps) != self.num_inference_steps:
            raise ValueError(f"preset {self.name} has {len(self.timesteps)} timesteps")


def _spaced(name: str, scheduler: str, steps: int, guidance_scale: float = 0.0) -> Preset:
    """A preset whose last timestep is the noisiest one, as in training; diffusers' `trailing`."""
    return Preset(
        name=name,
        scheduler=scheduler,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        timestep_spacing="trailing",
    )


def _at(name: str, scheduler: str, *timesteps: int, eta: float = 0.0) -> Preset:
    return Preset(name=name, scheduler=scheduler, num_inference_steps=len(timesteps), timesteps=timesteps, eta=eta)


# As the models' cards give them: stabilityai/sdxl-turbo, ByteDance/SDXL-Lightning, latent-consistency/lcm-lora-sdxl,
# h1t/TCD-SDXL-LoRA, ByteDance/Hyper-SD and tianweiy/DMD2.
_ALL = (
    _spaced("turbo-1", "EulerAncestralDiscreteScheduler", 1),
    _spaced("turbo-4", "EulerAncestralDiscreteScheduler", 4),
    _spaced("lightning-2", "EulerDiscreteScheduler", 2),
    _spaced("lightning-4", "EulerDiscreteScheduler", 4),
    _spaced("lightning-8", "EulerDiscreteScheduler", 8),
    Preset(name="lcm-4", scheduler="LCMScheduler", num_inference_steps=4, guidance_scale=1.0),
    Preset(name="lcm-8", scheduler="LCMScheduler", num_inference_steps=8, guidance_scale=1.0),
    Preset(name="tcd-4", scheduler="TCDScheduler", num_inference_steps=4, eta=0.3),
    # Of one step there is a LoRA, which is sampled with TCD, and a whole UNet, which is sampled with LCM.
    _at("hyper-1", "TCDScheduler", 800, eta=1.0),
    _at("hyper-1-unet", "LCMScheduler", 800),
    _spaced("hyper-2", "DDIMScheduler", 2),
    _spaced("hyper-4", "DDIMScheduler", 4),
    _spaced("hyper-8", "DDIMScheduler", 8),
    _spaced("hyper-8-cfg", "DDIMScheduler", 8, 5.0),
    _at("dmd2-1", "LCMScheduler", 399),
    _at("dmd2-4", "LCMScheduler", 999, 749, 499, 249),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}


def preset_named(name: str) -> Preset | None:
    """Return the preset of that name, None for `none`.

    Raises:
        ValueError: there is no such preset; the message lists them.
    """
    if name == NO_PRESET:
        return None
    if name not in PRESETS:
        raise ValueError(f"there is no such preset; known are {', '.join([NO_PRESET, *PRESETS])}")
    return PRESETS[name]
