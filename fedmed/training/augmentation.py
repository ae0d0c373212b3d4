"""Augmentation that keeps a radiograph one: small rotations, shifts, zooms, and exposure.

No mirroring: it would put the heart on the right and the stomach bubble under the right lung.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fedmed.config import Augment
from fedmed.data.inputs import InputSpec


def augment(images: Tensor, spec: InputSpec, how: Augment, rng: Generator) -> Tensor:
    """Return N×1×H×W images in [-1, 1], each turned, shifted, zoomed and exposed at random.

    What comes in from outside the film is as dark as collimated film (-1). Features, N×F, are
    left as they are.
    """
    if not spec.is_image or not any(dict(how).values()):
        return images
    angle, zoom, x, y, gain, offset = _uniform(len(images), rng).to(images.device)
    if how.rotate or how.shift or how.scale:
        images = _move(images, angle * math.radians(how.rotate), 1 + zoom * how.scale, x, y, how)
    if how.contrast:
        scale = (1 + gain * how.contrast).view(-1, 1, 1, 1)
        images = images * scale + (offset * how.contrast).view(-1, 1, 1, 1)
    return images


def _uniform(n: int, rng: Generator) -> Tensor:
    """Return six rows of n draws from (-1, 1)."""
    return torch.rand(6, n, generator=rng) * 2 - 1


def _move(
    images: Tensor, angle: Tensor, zoom: Tensor, x: Tensor, y: Tensor, how: Augment
) -> Tensor:
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift = 2 * how.shift  # affine_grid's coordinates span [-1, 1]
    theta = torch.stack([cos, -sin, x * shift, sin, cos, y * shift], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1
