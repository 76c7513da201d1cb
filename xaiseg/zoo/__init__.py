"""Architectures that the package can build by name: one self-contained file each, found through one registry.

A third party adds a model through the entry point group ``xaiseg.models``: the entry point names a function that is
decorated with :func:`zoo_model`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from xaiseg.errors import UsageError, did_you_mean
from xaiseg.parameters import load_entry_points

if TYPE_CHECKING:
    from torch import nn

    from xaiseg.zoo.recipe import Objective, Recipe

#: One module an architecture. A new model of the package is a new file and a line here.
BUILTIN: Final = ("attention_unet", "detector_compact", "radiomicnet", "smp_peers", "ukan", "unet_compact", "unext")

#: Folder of the weights that ship with the package.
WEIGHTS: Final = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Weights:
    """A file of trained weights that ships with the package.

    Attributes:
        file: its name under :data:`WEIGHTS`.
        sha256: checked whenever the file is loaded by this name.
        data: what it was trained on, with licence and attribution.
        command: what made it, seed included; the printed log stands in docs/zoo/.
        result: what was measured, and on what.
        classes: of a detector, what it finds.
        threshold: the operating threshold of ``result``, chosen on validation data; None = not stated.
    """

    file: str
    sha256: str
    data: str
    command: str
    result: str
    classes: tuple[str, ...] = ()
    threshold: float | None = None


@dataclass(frozen=True)
class Card:
    """What a user should know before trusting a model of the zoo.

    Attributes:
        name: the name in ``source: {zoo: name}``.
        summary: what it is, as one clause.
        paper: the publication behind the architecture.
        parameters: trainable values for one input channel and one logit (a detector: one class).
        multiple_of: image sides are padded to a multiple of this many pixels.
        licence: of code and shipped weights.
        source: where the architecture comes from.
        differs: what differs from the paper, and why.
        weights: the files that ship with the package.
        task: "segmentation": the network answers logits (B, outputs, H, W); "detection": it answers
            :class:`~xaiseg.subject.RawBoxes`.
    """

    name: str
    summary: str
    paper: str
    parameters: int
    multiple_of: int
    licence: str
    source: str
    differs: str
    weights: tuple[Weights, ...] = ()
    task: Literal["segmentation", "detection"] = "segmentation"


Builder = Callable[[int, int], "nn.Module"]
_B = TypeVar("_B", bound=Builder)


@dataclass(frozen=True)
class _Member:
    card: Card
    build: Builder
    recipes: Mapping[str, Recipe] | None
    objective: Objective | None


_REGISTRY: dict[str, _Member] = {}


def zoo_model(
    card: Card, *, recipes: Mapping[str, Recipe] | None = None, objective: Objective | None = None
) -> Callable[[_B], _B]:
    """Registers a builder ``(channels, outputs) -> nn.Module`` under ``card.name``.

    Args:
        card: see :class:`Card`.
        recipes: trainings by name, the default one first; None = one compact recipe that suits most networks.
        objective: what a training computes; None = cross-entropy plus soft Dice.

    Raises:
        ValueError: the name is taken, or a field that the card must state is empty.
    """
    empty = [name for name in ("name", "summary", "paper", "licence", "source", "differs") if not getattr(card, name)]
    if empty or card.multiple_of < 1:
        raise ValueError(f"the card of {card.name or 'a zoo model'} states no {', '.join(empty) or 'multiple_of'}")

    def register(builder: _B) -> _B:
        if card.name in _REGISTRY and _REGISTRY[card.name].build.__module__ != builder.__module__:
            raise ValueError(f"two zoo models are called {card.name!r}")
        _REGISTRY[card.name] = _Member(card, builder, recipes, objective)
        return builder

    return register


def list_models() -> tuple[str, ...]:
    """Names of all registered models, sorted.

    >>> "radiomicnet" in list_models()
    True
    """
    _load()
    return tuple(sorted(_REGISTRY))


def card(name: str) -> Card:
    """The card of a model.

    Raises:
        UsageError: no model has this name.

    >>> card("unet-compact").multiple_of
    8
    """
    return _find(name).card


def card_text(card: Card) -> str:
    """A card as lines of text.

    >>> card_text(card("unet-compact")).splitlines()[0]
    'unet-compact: a compact U-Net for two or more classes'
    """
    facts = {
        "paper": card.paper,
        "parameters": f"{card.parameters:,} (one channel, one {'class' if card.task == 'detection' else 'logit'})",
        "image sides": f"multiples of {card.multiple_of} px on its own grid; images are padded",
        "differs": card.differs,
        "licence": card.licence,
        "source": card.source,
        "weights": ", ".join(weights.file for weights in card.weights) or "none shipped",
    }
    lines = [f"{card.name}: {card.summary}", *(f"  {key}: {value}" for key, value in facts.items())]
    for weights in card.weights:
        shown = {"data": weights.data, "command": weights.command, "result": weights.result, "SHA-256": weights.sha256}
        lines += [f"  {weights.file}", *(f"    {key}: {value}" for key, value in shown.items())]
    return "\n".join(lines)


def build(name: str, channels: int, outputs: int) -> nn.Module:
    """A model with random weights.

    Args:
        name: a name of :func:`list_models`.
        channels: input channels.
        outputs: output channels; 1 = one logit for a binary task. Of a detector: classes.

    Raises:
        UsageError: no model has this name, or there is no channel or no output.

    >>> sum(p.numel() for p in build("unet-compact", 1, 1).parameters()) == card("unet-compact").parameters
    True
    """
    member = _find(name)
    if channels < 1 or outputs < 1:
        raise UsageError("a network has channels and outputs", where=name, got=f"{channels} and {outputs}",
                         allowed="1 or more of each")  # fmt: skip
    return member.build(channels, outputs)


def recipe_of(name: str, which: str | None = None) -> Recipe:
    """How a model is trained.

    Args:
        name: a name of :func:`list_models`.
        which: the name of one of its recipes; None = the default one.

    Raises:
        UsageError: the model has no such recipe.
    """
    from xaiseg.zoo.recipe import Recipe

    known = _find(name).recipes or {"compact": Recipe()}
    if which is not None and which not in known:
        raise UsageError(f"{name} has no such recipe", where="--recipe", got=which, then=did_you_mean(which, known))
    return known[which] if which is not None else next(iter(known.values()))


def objective_of(name: str) -> Objective:
    """What a training of a model computes."""
    from xaiseg.zoo.recipe import Objective

    return _find(name).objective or Objective()


def check_shipped(path: Path) -> None:
    """Compares a file of :data:`WEIGHTS` with the digest on its card; other files pass.

    Raises:
        UsageError: the file is not the one that was shipped.
    """
    if path.resolve().parent != WEIGHTS.resolve():
        return
    _load()
    known = {weights.file: weights.sha256 for member in _REGISTRY.values() for weights in member.card.weights}
    if path.name in known and (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != known[path.name]:
        raise UsageError(
            "the shipped weights were changed after the release",
            where=path.name,
            got=f"SHA-256 {digest}",
            allowed=known[path.name],
            then="Install xaiseg again, or name a file of your own by its path",
        )


def shipped(file: str) -> tuple[str, Weights] | None:
    """The member and the record of weights that ship under this file name, with or without its ending."""
    _load()
    name = f"{file.removesuffix('.safetensors')}.safetensors"
    held = ((key, one) for key, member in _REGISTRY.items() for one in member.card.weights)
    return next(((key, one) for key, one in held if one.file == name), None)


def _find(name: str) -> _Member:
    _load()
    if name not in _REGISTRY:
        raise UsageError("no zoo model has this name", where="zoo", got=name, then=did_you_mean(name, _REGISTRY))
    return _REGISTRY[name]


def _load() -> None:
    for module in BUILTIN:
        import_module(f"xaiseg.zoo.{module}")
    load_entry_points("xaiseg.models")
