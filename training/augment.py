"""Random variation of aligned faces, so that the classifier survives photographs from the web.

A detector's landmarks jitter (shift, rotation, scale), light and cameras differ (brightness,
contrast, saturation), and web pictures were re-encoded (lower resolution, JPEG). Loss of
resolution is kept mild because Blurry is one of the labels.
"""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

SHIFT_PX = 1.5
SCALE = 0.05
ROTATION_DEG = 5.0
LOW_RESOLUTION_SHARE = 0.2
JPEG_SHARE = 0.3


def augment(images: np.ndarray, generator: torch.Generator) -> Tensor:
    """Varies each image independently; the same generator state gives the same result.

    images: uint8 [n, height, width, 3], RGB. Returns float32 [n, 3, height, width], RGB 0-255.
    """
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    batch = _move(batch, generator)
    batch = _degrade(batch, generator)
    return _relight(batch, generator).clamp(0, 255)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _move(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors half of the images and applies a random similarity transform to all."""
    n, _, height, width = batch.shape
    angle = torch.randn(n, generator=generator) * math.radians(ROTATION_DEG)
    scale = torch.exp(torch.randn(n, generator=generator) * SCALE)
    shift = torch.randn((n, 2), generator=generator) * SHIFT_PX
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    # affine_grid works in coordinates of -1..1 on both axes: the aspect ratio enters the sines.
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = cos * mirror
    theta[:, 0, 1] = -sin * height / width
    theta[:, 1, 0] = sin * mirror * width / height
    theta[:, 1, 1] = cos
    theta[:, 0, 2] = shift[:, 0] * 2 / width
    theta[:, 1, 2] = shift[:, 1] * 2 / height
    grid = functional.affine_grid(theta, list(batch.shape), align_corners=False)
    return functional.grid_sample(batch, grid, padding_mode="border", align_corners=False)


def _degrade(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Lowers the resolution of some images and sends some through JPEG."""
    n, _, height, width = batch.shape
    lowered = torch.rand(n, generator=generator) < LOW_RESOLUTION_SHARE
    factors = _uniform((n,), 0.5, 1.0, generator)
    encoded = torch.rand(n, generator=generator) < JPEG_SHARE
    qualities = torch.randint(40, 96, (n,), generator=generator)
    for index in torch.nonzero(lowered).flatten().tolist():
        size = [round(height * float(factors[index])), round(width * float(factors[index]))]
        small = functional.interpolate(
            batch[index : index + 1], size, mode="bilinear", antialias=True
        )
        batch[index] = functional.interpolate(small, [height, width], mode="bilinear")[0]
    for index in torch.nonzero(encoded).flatten().tolist():
        pixels = batch[index].clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(qualities[index]))
        with Image.open(buffer) as image:
            batch[index] = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    return batch


def _relight(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Changes brightness, contrast, saturation and white balance; a few become grey."""
    n = batch.shape[0]
    brightness = _uniform((n, 1, 1, 1), 0.75, 1.25, generator)
    contrast = _uniform((n, 1, 1, 1), 0.75, 1.25, generator)
    saturation = _uniform((n, 1, 1, 1), 0.7, 1.3, generator)
    saturation[torch.rand(n, generator=generator) < 0.03] = 0.0
    balance = _uniform((n, 3, 1, 1), 0.94, 1.06, generator)
    mean = batch.mean((1, 2, 3), keepdim=True)
    batch = (batch - mean) * contrast + mean * brightness
    grey = batch.mean(1, keepdim=True)
    return ((batch - grey) * saturation + grey) * balance
