"""Pictures as tensors."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """(3, H, W) uint8 RGB."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()
