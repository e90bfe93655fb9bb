"""The demo model's VAE: SDXL's class with few channels, 8× smaller latents of 4 channels, trained on crops."""

from __future__ import annotations

import random

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional

from devtools.demo_model.scenes import ROUGH_SIZES, SIDE_PX, doodle, draw, random_scene
from worker.models.formulation import LATENT_CHANNELS
from worker.training.pixels import to_tensor
from worker.training.progress import StageProgress

SCALE = 8
_CROP_PX = 64
_BATCH = 16
_PICTURES = 3_000
_LEARNING_RATE = 2e-3
# Weight of the KL term per latent element. It keeps latents near unit scale and makes the decoder tolerate small
# errors. At 1e-6, as in latent diffusion (arXiv:2112.10752), this small decoder turns a UNet's small errors into noise.
_KL_WEIGHT = 1e-3
# Weight of the edge loss: edges are few pixels among thousands of flat ones, but the most visible ones.
_EDGE_WEIGHT = 1.0


def build_vae() -> AutoencoderKL:
    """Build an untrained VAE; weights are drawn from torch's global generator."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE_PX,
        scaling_factor=1.0,
        force_upcast=True,
        mid_block_add_attention=False,
    )


def train_vae(vae: AutoencoderKL, steps: int, seed: int, progress: StageProgress) -> None:
    """Train in place on scenes and doodles, half of each, and set `scaling_factor` for latents of unit deviation."""
    rng = random.Random(seed)
    pictures = torch.stack([to_tensor(_picture(rng)) for _ in range(_PICTURES)])
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps, pct_start=0.05)
    vae.train()
    for step in range(steps):
        batch = _crops(pictures, generator)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        reconstruction = functional.l1_loss(decoded, batch)
        kl = posterior.kl().float().sum() / posterior.mean.numel()
        loss = reconstruction + _EDGE_WEIGHT * _edge_loss(decoded, batch) + _KL_WEIGHT * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps, reconstruction.item())
    vae.eval().requires_grad_(False)
    sample = encode(vae, pictures[:256])
    vae.register_to_config(scaling_factor=round(1 / sample.std().item(), 5))


def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Return the unscaled means of the latents, (n, 4, H/8, W/8) float32, for pictures of (n, 3, H, W) uint8."""
    with torch.inference_mode():
        return torch.cat([vae.encode(_signed(part)).latent_dist.mean for part in torch.split(pictures, 16)])


def _picture(rng: random.Random) -> Image.Image:
    return draw(random_scene(rng, sizes=ROUGH_SIZES)) if rng.random() < 0.5 else doodle(rng)


def _crops(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a batch of random crops; the VAE is fully convolutional, so it can be trained on crops."""
    which = torch.randint(len(pictures), (_BATCH,), generator=generator).tolist()
    corners = torch.randint(SIDE_PX - _CROP_PX + 1, (_BATCH, 2), generator=generator).tolist()
    crops = [pictures[i, :, y : y + _CROP_PX, x : x + _CROP_PX] for i, (y, x) in zip(which, corners, strict=True)]
    return _signed(torch.stack(crops))


def _signed(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 127.5 - 1


def _edge_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the L1 loss between the differences of neighbouring pixels."""
    return functional.l1_loss(a.diff(dim=-1), b.diff(dim=-1)) + functional.l1_loss(a.diff(dim=-2), b.diff(dim=-2))
