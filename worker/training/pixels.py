"""Convert pictures to tensors."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """Return the picture as a uint8 RGB tensor of shape (3, H, W)."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()
