"""Random changes of training images, as a bad day at a device makes them; seeded, vectorised over a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; 0 switches a change off.

    Attributes:
        flip: probability of a left-right flip.
        rotate_degrees: largest rotation.
        scale: largest relative change of size.
        shift: largest shift, as a share of the side.
        gain: the factor lies between 1 / (1 + gain) and 1 + gain.
        gamma: the exponent lies between 1 / (1 + gamma) and 1 + gamma.
        blur_px: largest standard deviation of a Gaussian blur, on the network's grid; half of the images stay sharp.
        noise_sd: largest standard deviation of added noise, as a share of the value range.
    """

    flip: float = 0.5
    rotate_degrees: float = 10.0
    scale: float = 0.15
    shift: float = 0.06
    gain: float = 0.4
    gamma: float = 0.3
    blur_px: float = 1.5
    noise_sd: float = 0.06


def augment(
    images: Tensor, masks: Tensor, settings: Augmentation, generator: torch.Generator, *, ignore: int = 255
) -> tuple[Tensor, Tensor]:
    """Changes a batch.

    Args:
        images: (B, C, H, W) float32 in [0, 1].
        masks: (B, H, W) uint8 class indices; pixels that come from outside the image become ``ignore``.
        settings: what may change.
        generator: a seeded CPU generator.
        ignore: label of pixels that do not count.

    Returns:
        Images and masks of the same shapes.

    >>> same = Augmentation(0, 0, 0, 0, 0, 0, 0, 0)
    >>> images, masks = torch.rand(2, 1, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8)
    >>> bool((augment(images, masks, same, torch.Generator())[0] - images).abs().max() < 1e-5)
    True
    """
    grid = F.affine_grid(_affine(len(images), settings, generator), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    # Labels are shifted by one, so that the zeros from outside can be told from the background.
    moved = F.grid_sample(masks[:, None].float() + 1, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    masks = torch.where(moved > 0, moved - 1, float(ignore))[:, 0].round().to(torch.uint8)
    return _degrade(images, settings, generator), masks


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _affine(count: int, settings: Augmentation, generator: torch.Generator) -> Tensor:
    angle = _uniform(count, -1, 1, generator) * math.radians(settings.rotate_degrees)
    zoom = (1 + settings.scale) ** _uniform(count, -1, 1, generator)
    mirror = torch.where(torch.rand(count, generator=generator) < settings.flip, -1.0, 1.0)
    shift = 2 * settings.shift * _uniform(2 * count, -1, 1, generator).reshape(count, 2)
    rows = (
        torch.stack((mirror * zoom * angle.cos(), -zoom * angle.sin(), shift[:, 0]), dim=1),
        torch.stack((mirror * zoom * angle.sin(), zoom * angle.cos(), shift[:, 1]), dim=1),
    )
    return torch.stack(rows, dim=1)


def _degrade(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    count = len(images)
    gain = (1 + settings.gain) ** _uniform(count, -1, 1, generator)
    gamma = (1 + settings.gamma) ** _uniform(count, -1, 1, generator)
    images = (images.clamp(0, 1) ** gamma.view(-1, 1, 1, 1) * gain.view(-1, 1, 1, 1)).clamp(0, 1)
    sharp = torch.rand(count, generator=generator) < 0.5
    blur_px = torch.where(sharp, 0.0, _uniform(count, 0, settings.blur_px, generator))
    images = _blur(images, blur_px, settings.blur_px)
    noise_sd = _uniform(count, 0, settings.noise_sd, generator).view(-1, 1, 1, 1)
    return (images + noise_sd * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def _blur(images: Tensor, blur_px: Tensor, largest_px: float) -> Tensor:
    """A Gaussian blur of its own width for each image: the batch becomes the channels of a grouped convolution."""
    radius = math.ceil(2.5 * largest_px)
    if radius == 0:
        return images
    count, channels, height, width = images.shape
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / blur_px.clamp(min=1e-3).unsqueeze(1)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = F.pad(images.reshape(1, count * channels, height, width), (radius,) * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
    return flat.reshape(images.shape)
