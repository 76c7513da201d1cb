"""Subjects made of a network, a function or a folder: one grid, one batching and one output rule for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from xaiseg.data.case import ImageSpec
from xaiseg.data.pixels import refuse_large
from xaiseg.errors import SubjectError, UsageError
from xaiseg.geometry import Placement, place, to_image, to_network
from xaiseg.modelfile import InputSpec, ModelFile, OutputSpec
from xaiseg.outputs import pick_tensor, to_logits
from xaiseg.subject import Prediction, Segmenter, SubjectInfo, Threshold

#: What a torch module offers whose parts can be seen.
WHITE_BOX: Final = frozenset({"scores", "forward", "gradients", "activations", "weights"})


@dataclass(frozen=True)
class Network:
    """A loaded network on its own grid.

    Attributes:
        call: (B, C, h, w) float32, normalised -> whatever the network answers.
        offers: see :data:`xaiseg.subject.OFFERS`; for a labels-only head the scores are taken off later.
        module: the torch module whose weights and activations may be seen, or None.
        device: where it computes.
        parameters: number of trainable values, or None when unknown.
        multiple_of: what its sides must be a multiple of, when model.yaml does not say.
        fixed_batch: the only number of images it accepts, or None.
        fixed_size: the only (height, width) it accepts, or None.
        channels_last: whether inputs are laid out channels last, which is faster for most convolutions.
    """

    call: Callable[[Tensor], Any]
    offers: frozenset[str]
    module: nn.Module | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    parameters: int | None = None
    multiple_of: int = 1
    fixed_batch: int | None = None
    fixed_size: tuple[int, int] | None = None
    channels_last: bool = False


def module_network(module: nn.Module, *, device: torch.device | str = "cpu", multiple_of: int = 1) -> Network:
    """Puts a torch module into evaluation mode on its device and says what it offers."""
    device = torch.device(device)
    module = module.eval().to(device)
    module = module.to(memory_format=torch.channels_last)
    offers = WHITE_BOX
    count = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return Network(module, offers, module, device, count, multiple_of, channels_last=True)


class NetworkInput:
    """The way of images to a network, the same for segmenters and detectors: placed, ordered, normalised and batched.

    Args:
        network: the loaded network.
        spec: how it wants its images.
        name: of the subject, for errors.

    Raises:
        UsageError: the network accepts one image size only and ``spec`` says another.

    >>> way = NetworkInput(module_network(nn.Identity(), multiple_of=8), InputSpec(), "m")
    >>> [tuple(batch.shape) for _, _, batch in way.batches([torch.zeros(1, 9, 5), torch.zeros(1, 16, 8)], 2)]
    [(2, 1, 16, 8)]
    """

    def __init__(self, network: Network, spec: InputSpec, name: str) -> None:
        self._network = network
        self._spec = spec
        self._name = name
        self._multiple = spec.multiple_of or network.multiple_of
        shape = (1, spec.channels, 1, 1)
        self._mean = torch.tensor(spec.mean).reshape(-1, 1, 1).expand(shape).to(network.device)
        self._std = torch.tensor(spec.std).reshape(-1, 1, 1).expand(shape).to(network.device)
        self._plain = bool((self._mean == 0).all() and (self._std == 1).all())
        weights = network.module.parameters() if network.module is not None else ()
        self._dtype = next((w.dtype for w in weights if w.is_floating_point()), torch.float32)
        if network.fixed_size is not None and self.place(spec.size or network.fixed_size).outer != network.fixed_size:
            raise UsageError("the network accepts one image size only", where="input.size", got=spec.size,
                             allowed=list(network.fixed_size))  # fmt: skip

    def check(self, image: Tensor) -> tuple[int, int]:
        """(height, width) of an image (C, H, W).

        Raises:
            SubjectError: it does not have the channels that the network takes.
        """
        if image.ndim != 3 or image.shape[0] != self._spec.channels:
            raise SubjectError(
                "the image does not have the channels that the model takes",
                where="input.channels",
                got=f"shape {tuple(image.shape)}",
                allowed=f"({self._spec.channels}, height, width)",
            )
        return int(image.shape[1]), int(image.shape[2])

    def place(self, image: tuple[int, int]) -> Placement:
        """Where an image of (height, width) lies on the network's grid."""
        size, spec = self._spec.size or self._network.fixed_size, self._spec
        return place(image, size=size, resize=spec.padding, multiple_of=self._multiple, align=spec.align)

    def to_network(self, batch: Tensor, placement: Placement) -> Tensor:
        """Images (B, C, H, W) in the declared range, as the network takes them (B, C, h, w); differentiable."""
        batch = to_network(
            batch.to(self._network.device, torch.float32), placement, fill=self._spec.fill, mode=self._spec.mode
        )
        batch = batch.flip(1) if self._spec.channel_order == "bgr" else batch
        batch = batch if self._plain else (batch - self._mean) / self._std
        return self._laid_out(batch.to(self._dtype))

    def to_network_grid(self, batch: Tensor) -> Tensor:
        """The same for images of one size, whose placement follows from it."""
        return self.to_network(batch, self.place(self.check(batch[0])))

    def batches(self, images: Sequence[Tensor], batch_size: int) -> Iterator[tuple[list[int], list[Placement], Tensor]]:
        """Images that share the network's grid, on it: their indices, their placements, and a batch (B, C, h, w)."""
        placements = [self.place(self.check(image)) for image in images]
        grids: dict[tuple[int, int], list[int]] = {}
        for index, placement in enumerate(placements):
            grids.setdefault(placement.outer, []).append(index)
        for members in grids.values():
            for start in range(0, len(members), batch_size):
                chunk = members[start : start + batch_size]
                own = [placements[i] for i in chunk]
                with torch.no_grad():
                    if own.count(own[0]) == len(own):  # one pass over all, without a copy to join them
                        batch = self.to_network(torch.stack([images[i] for i in chunk]), own[0])
                    else:
                        batch = torch.cat([self.to_network(images[i][None], placements[i]) for i in chunk])
                yield chunk, own, batch

    def answers(self, batch: Tensor) -> list[Any]:
        """What the network answers to a batch (B, C, h, w), one answer for each part of it that it accepts.

        A network of a fixed batch is fed copies of the last image, so that the answers may be of more images than B.

        Raises:
            SubjectError: the network raised an error.
        """
        return [self._call(part) for part in self._parts(self._laid_out(batch))]

    def _laid_out(self, batch: Tensor) -> Tensor:
        return batch.contiguous(memory_format=torch.channels_last) if self._network.channels_last else batch

    def _parts(self, batch: Tensor) -> Sequence[Tensor]:
        fixed = self._network.fixed_batch
        if fixed is None:
            return (batch,)
        lacking = -len(batch) % fixed
        if lacking:
            batch = torch.cat((batch, batch[-1:].expand(lacking, -1, -1, -1)))
        return [batch[start : start + fixed] for start in range(0, len(batch), fixed)]

    def _call(self, batch: Tensor) -> Any:
        try:
            return self._network.call(batch)
        except (torch.OutOfMemoryError, SubjectError):
            raise
        except Exception as error:
            shape = tuple(batch.shape)
            what = f"the model cannot process an image batch of shape {shape}: {first_line(error)}"
            then = "Check input (channels, size, multiple_of) in model.yaml, or the InputSpec given to wrap_module"
            raise SubjectError(what, where=self._name, then=then) from error


class NetworkSegmenter(Segmenter):
    """A network on its own grid, seen from the images' own pixels.

    Images are resized and padded as ``spec`` says, normalised, and batched when they share the network's grid; logits
    are mapped back bilinearly. ``forward`` takes the same way and is differentiable from the image's own pixels.

    Args:
        network: the loaded network.
        name, classes: as in model.yaml.
        spec: how the network wants its images.
        output: what the network answers.

    Raises:
        UsageError: the network accepts one image size only and ``spec`` says another.

    >>> model = wrap_module(nn.Conv2d(1, 1, 3, padding=1), InputSpec(multiple_of=8))
    >>> [tuple(logits.shape) for logits in model.predict([torch.zeros(1, 30, 20), torch.zeros(1, 16, 16)])]
    [(2, 30, 20), (2, 16, 16)]
    """

    def __init__(
        self, network: Network, *, name: str, classes: tuple[str, ...], spec: InputSpec, output: OutputSpec
    ) -> None:
        self._network = network
        self._input = NetworkInput(network, spec, name)
        self._output = output
        self.info = SubjectInfo(
            name=name,
            classes=classes,
            channels=spec.channels,
            value_range=spec.range,
            threshold=Threshold(output.threshold.value, output.threshold.chosen_on),
            activation=output.activation or ("sigmoid" if len(classes) == 2 else "softmax"),
            offers=frozenset() if output.kind == "labels" else network.offers,
            parameters=network.parameters,
        )

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self._network.device

    @property
    def module(self) -> nn.Module | None:
        """The torch module, or None for a black box."""
        return self._network.module

    def predict(self, images: Sequence[Tensor], *, batch_size: int = 8) -> list[Tensor]:
        """See :meth:`xaiseg.subject.Segmenter.predict`."""
        answers: dict[int, Tensor] = {}
        for chunk, placements, batch in self._input.batches(images, batch_size):
            with torch.inference_mode():
                logits = self._run(batch)
            # Inference tensors could not take part in a later backward pass; a copy can.
            with torch.no_grad():
                for i, placement, own in zip(chunk, placements, logits.clone(), strict=True):
                    answers[i] = to_image(own.unsqueeze(0), placement)[0]
        return [answers[i] for i in range(len(images))]

    def forward(self, batch: Tensor) -> Tensor:
        """See :meth:`xaiseg.subject.Segmenter.forward`."""
        if "forward" not in self.info.offers:
            return super().forward(batch)
        placement = self._input.place(self._input.check(batch[0]))
        return to_image(self._run(self._input.to_network(batch, placement)), placement)

    def to_image_grid(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`xaiseg.subject.Segmenter.to_image_grid`; the padding is cut off again."""
        return to_image(maps, self._input.place(size))

    def intrinsic(self, batch: Tensor) -> Mapping[str, Tensor]:
        """See :meth:`xaiseg.subject.Segmenter.intrinsic`."""
        if "intrinsic" not in self.info.offers:
            return super().intrinsic(batch)
        read: Callable[[Tensor], Mapping[str, Tensor]] = getattr(self._network.module, "intrinsic")  # noqa: B009 - nn.Module types every attribute
        return read(self.to_network_grid(batch))

    def to_network_grid(self, batch: Tensor) -> Tensor:
        """See :meth:`xaiseg.subject.Segmenter.to_network_grid`: resized, padded and normalised."""
        return self._input.to_network_grid(batch)

    def from_network_grid(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`xaiseg.subject.Segmenter.from_network_grid`."""
        return to_image(self._to_logits(output), self._input.place(size))

    def _run(self, batch: Tensor) -> Tensor:
        raw = torch.cat([self._pick(answer) for answer in self._input.answers(batch)])
        logits = self._to_logits(raw[: len(batch)])
        height, width = batch.shape[-2:]
        if len(logits) != len(batch) or height * logits.shape[-1] != width * logits.shape[-2]:
            got = f"{tuple(raw.shape)} for an input {tuple(batch.shape)}"
            allowed = "as many images, on the same grid or a coarser one of the same proportions"
            raise SubjectError("the output does not fit the input", where="output", got=got, allowed=allowed)
        return logits

    def _pick(self, answer: Any) -> Tensor:
        return pick_tensor(answer, key=self._output.key, index=self._output.index).to(self.device)

    def _to_logits(self, raw: Tensor) -> Tensor:
        classes, kind = len(self.info.classes), self._output.kind
        return to_logits(raw.float(), classes=classes, kind=kind, activation=self._output.activation)


def wrap_module(
    module: nn.Module,
    spec: InputSpec | None = None,
    output: OutputSpec | None = None,
    *,
    classes: tuple[str, ...] = ("background", "foreground"),
    name: str = "model",
    device: torch.device | str = "cpu",
) -> NetworkSegmenter:
    """A segmenter around a torch module that is at hand, without a model.yaml.

    Nothing is guessed from the module: what is not said has the values below. The module itself, not a copy of it, is
    put into evaluation mode on its device and stays there; a training that goes on calls ``module.train()`` again.

    Args:
        module: the network.
        spec: how it wants its images; None: one channel with values from 0 to 1, at the size that they have.
        output: what it answers; None: logits.
        classes: names, the background first. With two of them one channel is enough.
        name: for messages.
        device: where it computes.

    >>> wrap_module(nn.Conv2d(1, 3, 1), classes=("background", "a", "b")).info.parameters
    6
    """
    return NetworkSegmenter(
        module_network(module, device=device),
        name=name,
        classes=classes,
        spec=spec or InputSpec(),
        output=output or OutputSpec(),
    )


class PredictionsFolder(Segmenter):
    """A folder of predictions by case id and no model at all: ``ID.png`` class indices or ``ID.npy`` scores.

    A folder with any .npy file is read as scores, (K, H, W) or (H, W) for the foreground of two classes, of the kind
    and activation that model.yaml declares; else the subject gives labels only. PNG values {0, 255} mean {0, 1} for two
    classes. The engine asks ``predict_cases``, because an image does not tell which case it is.

    Raises:
        UsageError: there is no such folder, or it holds no prediction.
    """

    by_case = True

    def __init__(self, folder: Path, model: ModelFile) -> None:
        names = [path.suffix.lower() for path in folder.iterdir()] if folder.is_dir() else []
        if ".npy" not in names and ".png" not in names:
            raise UsageError("the folder holds no predictions", where=model.where("source", "predictions"), got=folder,
                             allowed="files ID.png (class indices) or ID.npy (scores)")  # fmt: skip
        self._folder = folder
        self._suffix = ".npy" if ".npy" in names else ".png"
        self._output = model.output
        threshold = model.output.threshold
        self.info = SubjectInfo(
            name=model.name,
            classes=model.classes,
            channels=model.input.channels,
            value_range=model.input.range,
            threshold=Threshold(threshold.value, threshold.chosen_on),
            activation=model.output.activation or ("sigmoid" if len(model.classes) == 2 else "softmax"),
            offers=frozenset({"scores"}) if self._suffix == ".npy" else frozenset(),
        )

    def predict(self, images: Sequence[Tensor], *, batch_size: int = 8) -> list[Tensor]:
        """Refuses: there is no model that could look at an image."""
        raise SubjectError("a folder of predictions cannot look at new images", where=self._folder)

    def predict_cases(self, ids: Sequence[str]) -> list[Prediction]:
        """The stored predictions of cases, in order.

        Raises:
            SubjectError: a prediction is missing, unreadable, or does not fit the classes.
        """
        return [self.decide(self._read(case)) for case in ids]

    def _read(self, case: str) -> Tensor:
        path = self._folder / f"{case}{self._suffix}"
        if not path.resolve().is_relative_to(self._folder.resolve()) or not path.is_file():
            raise SubjectError("this case has no prediction", where=case, allowed=path.name)
        classes, kind = len(self.info.classes), self._output.kind
        try:
            values = np.load(path, allow_pickle=False) if self._suffix == ".npy" else _read_index_png(path, classes)
        except Exception as error:  # whatever a damaged file makes NumPy or Pillow raise
            raise SubjectError(f"the prediction cannot be read: {first_line(error)}", where=path.name) from error
        raw = torch.from_numpy(np.ascontiguousarray(values))
        raw = raw[None, None] if raw.ndim == 2 else raw[None]
        if self._suffix == ".png":
            return to_logits(raw, classes=classes, kind="labels")[0]
        if kind == "labels" or "kind" not in self._output.model_fields_set:
            kind = "probabilities"  # what is stored, unless it is said to be something else
        return to_logits(raw, classes=classes, kind=kind, activation=self._output.activation)[0]


def _read_index_png(path: Path, classes: int) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        refuse_large(path, picture.height, picture.width, ImageSpec(1).max_pixels)
        if picture.mode not in ("1", "L", "P"):
            raise ValueError(f"a mask of class indices has one 8-bit channel, this one is {picture.mode}")
        values = np.array(picture.convert("L") if picture.mode == "1" else picture, dtype=np.uint8)
    if classes == 2 and np.isin(values, (0, 255)).all():
        return (values > 0).astype(np.uint8)
    return values


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error) or type(error).__name__).strip().split("\n")[0]
