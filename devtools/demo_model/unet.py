"""The demo model's UNets: the base, trained with both text encoders, and a small refiner for low noise levels."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from devtools.demo_model.scenes import SIDE_PX, Scene, caption, chatter
from devtools.demo_model.vae import SCALE
from devtools.demo_model.vocabulary import CLIP_G_WIDTH, CLIP_L_WIDTH
from devtools.models import small

# Shares of captions that describe nothing, an eighth in all, which classifier-free guidance needs (arXiv:2207.12598).
# SDXL's pipeline uses zeros if there is no negative prompt and encodes an empty one, so both are trained, and common
# negative phrases too.
_ZEROS, _EMPTY, _CHATTER = 0.05, 0.03, 0.05
_SIZE_AND_CROP = (SIDE_PX, SIDE_PX, 0, 0)
_BASE_TIME_IDS = (*_SIZE_AND_CROP, SIDE_PX, SIDE_PX)  # original size, crop, target size
# Original size, crop, and diffusers' default aesthetic score for a prompt and for a negative prompt.
_REFINER_TIME_IDS, _REFINER_NEGATIVE_TIME_IDS = (*_SIZE_AND_CROP, 6.0), (*_SIZE_AND_CROP, 2.5)

# Hidden states (n, 77, width), pooled embeddings (n, projection), time ids (n, 6 or 5).
Conditioning = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

# Makes a caption for a scene.
Speak = Callable[[random.Random, Scene], str]


def build_base_unet() -> UNet2DConditionModel:
    """Build an untrained base UNet; weights are drawn from torch's global generator."""
    return _unet((64, 128), 16, CLIP_L_WIDTH + CLIP_G_WIDTH, len(_BASE_TIME_IDS))


def build_refiner_unet() -> UNet2DConditionModel:
    """Build an untrained refiner UNet, drawn from torch's global generator; it has less to do, so it is smaller."""
    return _unet((32, 32), 8, CLIP_G_WIDTH, len(_REFINER_TIME_IDS))


def _unet(channels: tuple[int, int], groups: int, text_width: int, time_ids: int) -> UNet2DConditionModel:
    return small.unet(
        channels,
        sample_size=SIDE_PX // SCALE,
        groups=groups,
        transformer_layers=1,
        text_width=text_width,
        pooled_width=CLIP_G_WIDTH,
        time_ids=time_ids,
    )


@dataclass(slots=True)
class Base:
    """The base UNet with its text encoders, as a `fit.Trainee`."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    speak: Speak = caption

    def modules(self) -> Sequence[nn.Module]:
        """Return the UNet and both text encoders."""
        return self.unet, self.text_encoder, self.text_encoder_2

    def condition(self, rng: random.Random, scenes: Sequence[Scene]) -> Conditioning:
        """Encode captions as `StableDiffusionXLPipeline.encode_prompt` does, with zeros for an absent prompt."""
        said, kept = zip(*[_say(rng, scene, self.speak) for scene in scenes], strict=True)
        ids = _tokens(self.tokenizer, said)
        hidden = self.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        hidden_2, pooled = _encode_2(self.text_encoder_2, self.tokenizer_2, said)
        keep = torch.tensor(kept, dtype=torch.float32)
        both = torch.cat([hidden, hidden_2], dim=-1)
        time_ids = torch.tensor([_BASE_TIME_IDS] * len(said), dtype=torch.float32)
        return both * keep.view(-1, 1, 1), pooled * keep.view(-1, 1), time_ids

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Return the predicted velocity, (n, 4, h, w) float32."""
        return _predict(self.unet, noisy, timesteps, conditioning)


@dataclass(slots=True)
class Finish(Base):
    """The base with frozen text encoders, for the stages in which only its UNet is trained."""

    def modules(self) -> Sequence[nn.Module]:
        """Return the UNet only."""
        return (self.unet,)


@dataclass(slots=True)
class Refiner:
    """The refiner's UNet with the base's second text encoder, which is frozen, as a `fit.Trainee`."""

    unet: UNet2DConditionModel
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer_2: CLIPTokenizer

    def modules(self) -> Sequence[nn.Module]:
        """Return the UNet only."""
        return (self.unet,)

    def condition(self, rng: random.Random, scenes: Sequence[Scene]) -> Conditioning:
        """Encode captions as `StableDiffusionXLImg2ImgPipeline` does: an empty one is encoded, with the low score."""
        said = [_say(rng, scene, caption)[0] for scene in scenes]
        with torch.no_grad():
            hidden, pooled = _encode_2(self.text_encoder_2, self.tokenizer_2, said)
        time_ids = [_REFINER_TIME_IDS if prompt else _REFINER_NEGATIVE_TIME_IDS for prompt in said]
        return hidden, pooled, torch.tensor(time_ids, dtype=torch.float32)

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Return the predicted velocity, (n, 4, h, w) float32."""
        return _predict(self.unet, noisy, timesteps, conditioning)


def _say(rng: random.Random, scene: Scene, speak: Speak) -> tuple[str, bool]:
    """Return a caption, and whether it is used (otherwise its embeddings are zeros)."""
    kind = rng.random()
    if kind < _ZEROS + _EMPTY:
        return "", kind >= _ZEROS
    return (chatter(rng) if kind < _ZEROS + _EMPTY + _CHATTER else speak(rng, scene)), True


def _tokens(tokenizer: CLIPTokenizer, said: Sequence[str]) -> torch.Tensor:
    padded = tokenizer(
        list(said), padding="max_length", max_length=small.MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = padded.input_ids
    return ids


def _encode_2(
    encoder: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, said: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    output = encoder(_tokens(tokenizer, said), output_hidden_states=True)
    return output.hidden_states[-2], output.text_embeds


def _predict(
    unet: UNet2DConditionModel, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
) -> torch.Tensor:
    hidden, pooled, time_ids = conditioning
    added = {"text_embeds": pooled, "time_ids": time_ids}
    # bfloat16 takes half the time of float32 on CPUs that support it, and the pictures are as good.
    with torch.autocast("cpu", torch.bfloat16):
        output: torch.Tensor = unet(noisy, timesteps, hidden, added_cond_kwargs=added).sample
    return output.float()
