"""Train a LoRA (arXiv:2106.09685) on captioned pictures, for any SDXL model that the worker can load.

Follows diffusers' `train_text_to_image_lora_sdxl.py`: the model's own weights are frozen, PEFT adds low-rank matrices
to them, and these are trained to predict the noise (or velocity) that was added to the pictures' latents. Accelerate
provides mixed precision, gradient accumulation and training on several GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata, cast_training_params
from torch.nn import functional

try:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import get_peft_model_state_dict
except ImportError as error:  # pragma: no cover
    raise ImportError("train-lora needs PEFT: install sdxl-worker[train]") from error

from worker.models.load import load_base, resolve_device
from worker.training.dataset import Example, TrainingError, read_dataset
from worker.training.pixels import to_tensor
from worker.training.progress import StageProgress

__all__ = ["Recipe", "TrainingError", "train_lora"]

_PRECISIONS = ("no", "fp16", "bf16")
_ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
_CONVOLUTIONS = ["conv1", "conv2", "conv_shortcut"]
_TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Parameters of the training; `resolution` is in pixels.

    Alpha equals `rank`, so that a LoRA weight of 1 adds the matrices as they were trained.
    """

    resolution: int = 1024
    rank: int = 16
    batch_size: int = 1
    epochs: int = 100
    max_steps: int | None = None
    learning_rate: float = 1e-4
    gradient_accumulation: int = 1
    mixed_precision: str = "no"
    convolutions: bool = False
    text_encoders: bool = False
    seed: int = 0


def train_lora(
    model_id: str,
    dataset: Path,
    file: Path,
    recipe: Recipe,
    *,
    device: str = "auto",
    progress: StageProgress,
) -> Path:
    """Train a LoRA and write it to `file` in PEFT's layout, as diffusers loads it; requests use it by the file's name.

    Args:
        model_id: base model, given by hub id, folder or single file as in `SDXL_MODEL_ID`.
        dataset: folder of captioned pictures, see `dataset.read_dataset`.
        file: path of the LoRA; must end in `.safetensors`.
        recipe: parameters of the training.
        device: value of the setting `DEVICE`.
        progress: called after each optimiser step with the steps done, the total steps and the loss.

    Raises:
        TrainingError: the dataset or the recipe cannot be used.
        ModelLoadError: as raised by `load_base`.
    """
    examples = read_dataset(dataset)
    if recipe.mixed_precision not in _PRECISIONS:
        raise TrainingError(f"mixed precision {recipe.mixed_precision!r} is not one of {', '.join(_PRECISIONS)}")
    place = resolve_device(device)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        cpu=place.type == "cpu",
    )
    if recipe.text_encoders and accelerator.num_processes > 1:
        raise TrainingError("text encoders are trained on one device only: their gradients are not gathered")
    set_seed(recipe.seed)
    pipeline = load_base(model_id, dtype=torch.float32, device=accelerator.device)
    if recipe.resolution % pipeline.vae_scale_factor:
        raise TrainingError(f"resolution {recipe.resolution} is not a multiple of {pipeline.vae_scale_factor}")
    _Trainer(pipeline, accelerator, recipe).run(examples, progress)
    if accelerator.is_main_process:
        _save(pipeline, file, recipe)
    accelerator.wait_for_everyone()
    return file


class _Trainer:
    """One training run; pictures are encoded once, and so are captions unless the text encoders are trained."""

    def __init__(self, pipeline: StableDiffusionXLPipeline, accelerator: Accelerator, recipe: Recipe) -> None:
        self._pipe, self._accelerator, self._recipe = pipeline, accelerator, recipe
        self._noise = DDPMScheduler.from_config(pipeline.scheduler.config)
        # Replaced by Accelerate's wrapper in `run`; `_save` uses the pipeline's own module.
        self._unet: Any = pipeline.unet
        self._encoded: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def run(self, examples: list[Example], progress: StageProgress) -> None:
        latents, time_ids = self._encode_pictures(examples)
        learning = self._add_matrices()
        parameters = [p for module in learning for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self._recipe.learning_rate, weight_decay=1e-2)
        data = torch.utils.data.TensorDataset(torch.arange(len(examples)))
        order = torch.Generator().manual_seed(self._recipe.seed)
        loader = torch.utils.data.DataLoader(data, self._recipe.batch_size, shuffle=True, generator=order)
        *learning, optimizer, loader = self._accelerator.prepare(*learning, optimizer, loader)
        self._unet = learning[0]
        # With gradient accumulation, one optimiser step takes several batches.
        updates = -(-len(loader) // self._recipe.gradient_accumulation)
        total = min(self._recipe.epochs * updates, self._recipe.max_steps or self._recipe.epochs * updates)
        for done, loss in enumerate(
            self._steps(learning, parameters, optimizer, loader, latents, time_ids, examples), 1
        ):
            progress(done, total, loss)
            if done == total:
                break

    def _steps(
        self,
        learning: list[Any],
        parameters: list[torch.nn.Parameter],
        optimizer: Any,
        loader: Any,
        latents: torch.Tensor,
        time_ids: torch.Tensor,
        examples: list[Example],
    ) -> Iterator[float]:
        """Train without end, and yield the loss after each optimiser step."""
        while True:
            for (which,) in loader:
                places = which.tolist()
                with self._accelerator.accumulate(*learning):
                    loss = self._loss(latents[places], time_ids[places], [examples[i].caption for i in places])
                    self._accelerator.backward(loss)
                    if self._accelerator.sync_gradients:
                        self._accelerator.clip_grad_norm_(parameters, 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                if self._accelerator.sync_gradients:
                    yield loss.item()

    def _loss(self, latents: torch.Tensor, time_ids: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """Return the mean squared error of the predicted noise or velocity, depending on `prediction_type`."""
        noise = torch.randn_like(latents)
        timesteps = torch.randint(self._noise.config.num_train_timesteps, (len(latents),), device=latents.device)
        noisy = self._noise.add_noise(latents, noise, timesteps)
        with self._accelerator.autocast():
            prompts, pooled = self._encode_captions(captions)
            added = {"text_embeds": pooled, "time_ids": time_ids}
            predicted = self._unet(noisy, timesteps, prompts, added_cond_kwargs=added).sample
        if self._noise.config.prediction_type == "v_prediction":
            noise = self._noise.get_velocity(latents, noise, timesteps)
        return functional.mse_loss(predicted.float(), noise)

    def _add_matrices(self) -> list[Any]:
        """Add untrained LoRA matrices to the model, and return the modules that received some."""
        rank = self._recipe.rank
        layers = {"unet": _ATTENTION + _CONVOLUTIONS * self._recipe.convolutions}
        if self._recipe.text_encoders:
            layers |= {"text_encoder": _TEXT, "text_encoder_2": _TEXT}
        modules = [getattr(self._pipe, name) for name in layers]
        for module, targets in zip(modules, layers.values(), strict=True):
            # The encoders' own `add_adapter` is not used: it requires a newer PEFT than this needs.
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), module)
        for module in modules:
            cast_training_params(module, dtype=torch.float32)
        return modules

    @torch.no_grad()
    def _encode_pictures(self, examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scaled latents, (n, 4, h, w), and the time ids, (n, 6)."""
        vae, device = self._pipe.vae, self._accelerator.device
        latents, time_ids = [], []
        for example in examples:
            picture, ids = example.square(self._recipe.resolution)
            pixels = to_tensor(picture)[None].to(device, torch.float32) / 127.5 - 1
            latents.append(vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor)
            time_ids.append(ids)
        return torch.cat(latents), torch.tensor(time_ids, dtype=torch.float32, device=device)

    def _encode_captions(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states, (n, 77, width), and the pooled embeddings, (n, width)."""
        if self._recipe.text_encoders:
            return self._encode(captions)
        with torch.no_grad():
            for caption in {*captions} - self._encoded.keys():
                self._encoded[caption] = self._encode([caption])
        hidden, pooled = zip(*[self._encoded[caption] for caption in captions], strict=True)
        return torch.cat(hidden), torch.cat(pooled)

    def _encode(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, _, pooled, _ = self._pipe.encode_prompt(captions, do_classifier_free_guidance=False)
        return hidden, pooled


def _save(pipeline: StableDiffusionXLPipeline, file: Path, recipe: Recipe) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    modules = {"unet": pipeline.unet}
    if recipe.text_encoders:
        modules |= {"text_encoder": pipeline.text_encoder, "text_encoder_2": pipeline.text_encoder_2}
    layers = {f"{name}_lora_layers": _state(name, module) for name, module in modules.items()}
    StableDiffusionXLPipeline.save_lora_weights(
        file.parent, **layers, weight_name=file.name, safe_serialization=True, **_collate_lora_metadata(modules)
    )
    # The file is created readable only by its owner, but the worker may run as another user.
    file.chmod(0o644)


def _state(component: str, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the matrices in PEFT's layout, in half precision, as LoRAs are usually shared.

    diffusers' `convert_state_dict_to_diffusers` is not used: it renames attention layers alone, and of a file in two
    layouts `load_lora_weights` drops one. Text encoders get the names of all releases of transformers but the newest,
    which diffusers knows with each of them.
    """
    inner = "text_model." if component != "unet" else ""
    return {
        f"{inner}{key.removeprefix(inner)}": tensor.half() for key, tensor in get_peft_model_state_dict(module).items()
    }
