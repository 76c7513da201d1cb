"""What a layer says of a region: its activations averaged over the region, one vector a region.

The average is that over the region's own pixels of the activations as they lie on the image, whatever resizing and
padding lie between the image and the layer. Since that way is linear, the average is a weighted sum over the layer's
cells, and the weights are found by going the way backwards once for each region; no activation is ever enlarged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.layout import Layout, layout_of
from xaiseg.explainers.tap import evaluation_mode, open_tap
from xaiseg.explainers.targets import check_mask
from xaiseg.subject import Segmenter

#: What a subject must offer; gradients, because only they tell which layers reach the answer.
NEEDS: Final = frozenset({"forward", "gradients", "activations"})
EMPTY_REGION: Final = "the region is empty"


@dataclass(frozen=True, eq=False)
class Example:
    """An image with the regions that are of interest in it.

    Attributes:
        id: name of the case.
        image: (C, H, W) float32 in the subject's declared range.
        regions: (H, W) bool masks, one an object; None for the whole image.
        cluster: what it shares with cases that are not independent of it (patient, site), or None.
    """

    id: str
    image: Tensor | np.ndarray
    regions: tuple[np.ndarray, ...] | None = None
    cluster: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return int(self.image.shape[1]), int(self.image.shape[2])


@dataclass(frozen=True)
class Place:
    """A layer of the network whose activations are read.

    Attributes:
        layer: dotted name.
        run: which execution of the layer, from 0.
        note: why this layer.
        token_grid: (h, w) that a transformer's tokens lie on, or None to find it for each image.
    """

    layer: str
    run: int
    note: str
    token_grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class Row:
    """Where a vector comes from.

    Attributes:
        id: name of the case.
        region: number of the region within the case, from 0; None for the whole image.
        box: (x0, y0, x1, y1) pixels around the region, x1 and y1 outside; None for an empty region.
        digest: SHA-256 of the image's pixels.
        cluster: see :class:`Example`.
        reason: why there is no vector; "" where there is one.
    """

    id: str
    region: int | None
    box: tuple[int, int, int, int] | None
    digest: str
    cluster: str | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Pooled:
    """Vectors of N regions.

    Attributes:
        vectors: (N, C) float32; NaN where the row gives a reason.
        rows: N places, in the order of the examples.
        place: the layer.
    """

    vectors: np.ndarray
    rows: tuple[Row, ...]
    place: Place


def require(subject: Segmenter, what: str, needs: frozenset[str] = NEEDS) -> nn.Module:
    """The network of a subject that offers what is needed.

    Raises:
        SubjectError: the subject does not; the message names what is missing.
    """
    lacking = sorted(needs - subject.info.offers)
    if lacking or subject.module is None:
        missing = " and ".join(lacking) or "activations"
        raise SubjectError(
            f"{what} needs {missing}, which this model does not offer",
            where=subject.info.name,
            then="Use a method that needs predictions alone, such as occlusion",
        )
    return subject.module


def find_layer(
    subject: Segmenter,
    image: Tensor | np.ndarray,
    layer: str | None = None,
    *,
    token_grid: tuple[int, int] | None = None,
) -> Place:
    """The layer to read, chosen as for class activation maps (see :func:`~xaiseg.explainers.tap.open_tap`).

    One forward pass without a backward pass.

    Args:
        subject: the audited model.
        image: (C, H, W), any image of the kind that will be read.
        layer: dotted name, or None for the automatic choice.
        token_grid: (h, w) that a transformer's tokens lie on.

    Raises:
        UsageError: no such layer, or one that does not reach the answer.
        SubjectError: the subject does not offer activations, or no layer can be read.
    """
    module = require(subject, "reading a layer")
    leaf = as_tensor(subject, image)[None].clone().requires_grad_(True)
    tap = open_tap(
        module,
        lambda: subject.forward(leaf),
        [lambda logits: logits.sum(dim=(1, 2, 3))],
        layer,
        token_grid=token_grid,
        gradients=False,
    )
    return Place(tap.layer, tap.run, tap.note, token_grid)


def as_tensor(subject: Segmenter, image: Tensor | np.ndarray) -> Tensor:
    """An image (C, H, W) as float32 on the subject's device."""
    return torch.as_tensor(image, dtype=torch.float32).to(subject.device)


def digest(image: Tensor | np.ndarray) -> str:
    """SHA-256 of an image's pixels as float32, and of its shape.

    >>> black = np.zeros((1, 2, 3))
    >>> digest(black) == digest(torch.zeros(1, 2, 3)), digest(black) == digest(black.reshape(1, 3, 2))
    (True, False)
    """
    pixels = np.ascontiguousarray(torch.as_tensor(image, dtype=torch.float32).cpu().numpy())
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def region_weights(
    subject: Segmenter, regions: Sequence[np.ndarray], grid: tuple[int, int], *, chunk: int = 8
) -> Tensor:
    """What each cell of a layer counts in the average over a region's pixels.

    Args:
        subject: knows how a layer's grid lies on the image.
        regions: R masks (H, W) bool.
        grid: (h, w) of the layer.
        chunk: regions at a time, for the sake of memory.

    Returns:
        (R, h, w) float32; each sums to 1, or to 0 for an empty region.
    """
    found = []
    for start in range(0, len(regions), chunk):
        masks = torch.from_numpy(np.stack(regions[start : start + chunk])).to(subject.device, torch.float32)
        cells = masks.new_zeros((len(masks), 1, *grid)).requires_grad_(True)
        with torch.enable_grad():
            shown = subject.to_image_grid(cells, (masks.shape[1], masks.shape[2]))[:, 0]
            (weights,) = torch.autograd.grad((shown * masks).sum(), cells)
        found.append(weights[:, 0] / masks.sum(dim=(1, 2), keepdim=True).clamp(min=1))
    return torch.cat(found) if found else torch.zeros((0, *grid))


def encoded(
    subject: Segmenter, examples: Iterable[Example], place: Place, *, batch_size: int = 8
) -> Iterator[tuple[Example, Tensor]]:
    """Examples with their activations (C, h, w) float32, in order; never more than one batch is in memory.

    Images that follow each other and have the same size share a batch.

    Raises:
        SubjectError: the layer cannot be read, or its activations are not finite.
    """
    module = require(subject, "reading a layer")
    for batch in _batches(examples, batch_size):
        images = torch.stack([as_tensor(subject, example.image) for example in batch])
        yield from zip(batch, _read(subject, module, images, place), strict=True)


def _batches(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    batch: list[Example] = []
    for example in examples:
        if batch and (len(batch) == size or batch[0].image.shape != example.image.shape):
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def _read(subject: Segmenter, module: nn.Module, images: Tensor, place: Place) -> Tensor:
    """Activations (B, C, h, w) of a batch (B, C, H, W)."""
    part = dict(module.named_modules()).get(place.layer, module)  # a network of one layer has no name within itself
    outputs: list[Tensor] = []
    grids: list[tuple[int, int]] = []

    def entered(_: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            grids.append((int(inputs[0].shape[2]), int(inputs[0].shape[3])))

    def left(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs.append(output)  # not a copy: as the tap does, show what an operation in place leaves

    handles = [module.register_forward_pre_hook(entered), part.register_forward_hook(left)]
    try:
        with evaluation_mode(module), torch.no_grad():
            subject.forward(images)
    finally:
        for handle in handles:
            handle.remove()
    output = outputs[place.run] if place.run < len(outputs) else None
    grid = grids[0] if grids else (int(images.shape[2]), int(images.shape[3]))
    layout: Layout | None = layout_of(tuple(output.shape), part, grid, place.token_grid) if output is not None else None
    if output is None or layout is None or len(output) != len(images):
        got = "no output" if output is None else f"{tuple(output.shape)} for {len(images)} images"
        raise SubjectError("the layer gives no grid for each image", where=f"layer {place.layer}", got=got)
    activations = layout.to_grid(output).float()
    if not torch.isfinite(activations).all():
        raise SubjectError("the activation is not finite", where=f"layer {place.layer}", got="NaN or infinity")
    return activations


def pool(
    subject: Segmenter,
    examples: Iterable[Example],
    *,
    layer: str | None = None,
    place: Place | None = None,
    token_grid: tuple[int, int] | None = None,
    batch_size: int = 8,
) -> Pooled:
    """Activations of a layer averaged over regions, or over the image.

    Args:
        subject: the audited model.
        examples: at least one; read one batch at a time, so that they may come from a generator.
        layer: dotted name, or None for the automatic choice on the first image.
        place: the layer as an earlier call has found it; ``layer`` and ``token_grid`` are then not used.
        token_grid: (h, w) that a transformer's tokens lie on.
        batch_size: images a forward pass.

    Raises:
        UsageError: no example, a region on another grid than its image, or no such layer.
        SubjectError: the subject does not offer activations, or they are not finite.

    >>> from xaiseg.adapters import wrap_module
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 3, padding=1))
    >>> with torch.no_grad():
    ...     _ = network[0].weight.copy_(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1))
    >>> left = np.zeros((4, 6), dtype=bool)
    >>> left[:, :3] = True
    >>> image = np.where(left, 1.0, 3.0)[None]
    >>> pool(wrap_module(network), [Example("a", image, (left, ~left))], layer="0").vectors.round(4).tolist()
    [[1.0, -2.0], [3.0, -6.0]]
    """
    require(subject, "pooling a layer")
    stream = iter(examples)
    first = next(stream, None)
    if first is None:
        raise UsageError("there is no image to read", where="examples", got="none", allowed="1 or more")
    found = place or find_layer(subject, first.image, layer, token_grid=token_grid)
    vectors: list[np.ndarray] = []
    rows: list[Row] = []
    for example, activation in encoded(subject, chain([first], stream), found, batch_size=batch_size):
        masks = example_masks(example)
        if masks:
            weights = region_weights(subject, masks, (activation.shape[1], activation.shape[2]))
            vectors.append(torch.einsum("rhw,chw->rc", weights, activation).cpu().numpy())
            rows.extend(_rows(example, masks))
    if not vectors:
        raise UsageError("no example has a region", where="examples", got="0 regions", allowed="1 or more")
    stacked = np.concatenate(vectors)
    stacked[[bool(row.reason) for row in rows]] = np.nan
    return Pooled(stacked, tuple(rows), found)


def example_masks(example: Example) -> tuple[np.ndarray, ...]:
    """The regions of an example, or the whole image where it names none.

    Raises:
        UsageError: a region is no (H, W) mask of truth values on the image's grid.
    """
    if example.regions is None:
        return (np.ones(example.size, dtype=bool),)
    for mask in example.regions:
        check_mask(mask, empty=True)
        if mask.shape != example.size:
            raise UsageError(
                "a region must lie on its image's grid", where=example.id, got=mask.shape, allowed=example.size
            )
    return example.regions


def _rows(example: Example, masks: Sequence[np.ndarray]) -> Iterator[Row]:
    own = digest(example.image)
    for number, mask in enumerate(masks):
        region = None if example.regions is None else number
        reason = "" if mask.any() else EMPTY_REGION
        yield Row(example.id, region, box_of(mask), own, example.cluster, reason)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(x0, y0, x1, y1) around a mask (H, W), x1 and y1 outside; None for an empty one.

    >>> box_of(np.array([[False, False, False], [False, True, True]]))
    (1, 1, 3, 2)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
