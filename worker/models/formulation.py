"""What a base was trained to predict, as its configuration tells: epsilon or velocity, zero terminal SNR or not.

Zero terminal SNR, velocity, trailing timesteps: Lin et al. 2023, arXiv:2305.08891. EDM (Karras et al. 2022,
arXiv:2206.00364) scales the UNet's input and output in another way, and flow matching has no noise schedule of this
kind: with any of the schedulers offered, models of these two kinds would draw noise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from worker.errors import ModelLoadError

LATENT_CHANNELS = 4
# Keys in single files. ComfyUI reads them, the second one beside the first only; diffusers does not.
_VELOCITY_KEY, _ZERO_SNR_KEY = "v_pred", "ztsnr"
_EDM_KEYS = ("edm_mean", "edm_std", "edm_vpred.sigma_max")


def scheduler_options(keys: Collection[str]) -> dict[str, Any]:
    """Return what the keys of a single file say about its scheduler's configuration."""
    if _VELOCITY_KEY not in keys:
        return {}
    options: dict[str, Any] = {"prediction_type": "v_prediction"}
    if _ZERO_SNR_KEY in keys:
        # Only trailing timesteps begin at the last one, which has no signal.
        options |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return options


def check_keys(model_id: str, keys: Collection[str]) -> None:
    """Check the keys of a single file.

    Raises:
        ModelLoadError: it is of a kind that the worker cannot draw.
    """
    for key in _EDM_KEYS:
        if key in keys:
            raise ModelLoadError(f"{model_id} is an EDM model (it has {key}), which the worker cannot draw.")


def check_scheduler(model_id: str, config: Mapping[str, Any]) -> None:
    """Check a scheduler's configuration.

    Raises:
        ModelLoadError: the base is of a kind that the worker cannot draw.
    """
    name = str(config.get("_class_name", ""))
    if name.startswith("EDM") or config.get("sigma_data") is not None:
        raise ModelLoadError(
            f"{model_id} is an EDM model (scheduler/scheduler_config.json names {name}, with sigma_data"
            f" {config.get('sigma_data')}), which the worker cannot draw."
        )
    if (
        name.startswith("FlowMatch")
        or config.get("use_flow_sigmas")
        or config.get("prediction_type") == "flow_prediction"
    ):
        raise ModelLoadError(f"{model_id} is a flow-matching model, which the worker cannot draw.")


def check_unet(model_id: str, config: Mapping[str, Any]) -> None:
    """Check a UNet's configuration.

    Raises:
        ModelLoadError: it is not that of an SDXL text-to-image model.
    """
    channels = config.get("in_channels", LATENT_CHANNELS)
    if channels != LATENT_CHANNELS:
        raise ModelLoadError(
            f"{model_id} is not an SDXL text-to-image model: its UNet takes {channels} channels in place of"
            f" {LATENT_CHANNELS}, as for inpainting."
        )
    if config.get("addition_embed_type") != "text_time":
        raise ModelLoadError(f"{model_id} is not an SDXL text-to-image model (its UNet has another architecture).")
    if config.get("time_cond_proj_dim") is not None:
        raise ModelLoadError(
            f"{model_id} has a UNet with embedded guidance (time_cond_proj_dim {config['time_cond_proj_dim']}), which"
            " the worker cannot draw: use that model's LoRA on its base."
        )
