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


def augment_boxes(
    images: Tensor,
    boxes: Tensor,
    labels: Tensor,
    settings: Augmentation,
    generator: torch.Generator,
    *,
    ignore: int = 255,
    visible: float = 0.25,
) -> tuple[Tensor, Tensor, Tensor]:
    """Changes a batch of views from above: any of the eight quarter turns and flips, so that boxes stay tight.

    ``settings.flip`` is the probability of each of a left-right flip, an up-down flip and an exchange of rows and
    columns; ``rotate_degrees`` is not used, since the box of a turned box is too large.

    Args:
        images: (B, C, S, S) float32 in [0, 1]; square.
        boxes: (B, G, 4) xyxy pixels.
        labels: (B, G) class index, ``ignore``, or -1 for nothing.
        settings: what may change.
        generator: a seeded CPU generator.
        ignore: label of an object of which less than ``visible`` is left in the image.
        visible: share of a box.

    Returns:
        Images, boxes and labels of the same shapes; what has left the image is -1.

    >>> same = Augmentation(0, 0, 0, 0, 0, 0, 0, 0)
    >>> images, boxes, labels = torch.rand(1, 1, 8, 8), torch.tensor([[[1.0, 2, 3, 5]]]), torch.zeros(1, 1)
    >>> augment_boxes(images, boxes, labels, same, torch.Generator())[1].tolist()
    [[[1.0, 2.0, 3.0, 5.0]]]
    """
    count, side = len(images), images.shape[-1]
    signs = torch.where(torch.rand(count, 2, generator=generator) < settings.flip, -1.0, 1.0)
    swapped = torch.rand(count, generator=generator) < settings.flip
    turn = torch.diag_embed(signs)
    turn = torch.where(swapped.view(-1, 1, 1), turn.flip(2), turn)
    zoom = ((1 + settings.scale) ** _uniform(count, -1, 1, generator)).view(-1, 1, 1)
    shift = 2 * settings.shift * _uniform(2 * count, -1, 1, generator).reshape(count, 2, 1)
    grid = F.affine_grid(torch.cat((zoom * turn, shift), dim=2), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    # The grid says where a pixel comes from; boxes go the other way. A turn's inverse is its transpose.
    points = (boxes.reshape(count, -1, 2) * (2 / side) - 1).transpose(1, 2)
    points = (turn.transpose(1, 2) @ (points - shift) / zoom).transpose(1, 2).reshape(count, -1, 2, 2)
    corners = torch.cat((points.amin(dim=2), points.amax(dim=2)), dim=2)
    moved = (corners + 1) * (side / 2)
    inside = moved.clamp(0, side)
    left = (inside[..., 2:] - inside[..., :2]).prod(2) / (moved[..., 2:] - moved[..., :2]).prod(2).clamp(min=1e-6)
    labels = torch.where((left < visible) & (labels >= 0), ignore, labels)
    labels = torch.where(left > 0, labels, -1)
    return _degrade(images, settings, generator), inside, labels


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
