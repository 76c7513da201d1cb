"""Architectures that the package can build by name: one self-contained file each, found through one registry.

A third party adds a model through the entry point group ``xaiseg.models``: the entry point names a function that is
decorated with :func:`zoo_model`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from xaiseg.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

#: One module an architecture. A new model of the package is a new file and a line here.
BUILTIN: Final = ("unet_compact",)

#: Folder of the weights that ship with the package.
WEIGHTS: Final = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Card:
    """What a user should know before trusting a model of the zoo.

    Attributes:
        name: the name in ``source: {zoo: name}``.
        summary: what it is, as one clause.
        paper: the publication behind the architecture.
        parameters: trainable values for one input channel and one logit.
        multiple_of: image sides are padded to a multiple of this many pixels.
        data: what the shipped weights were trained on.
        licence: of code and shipped weights.
        source: where the architecture comes from.
        differs: what differs from the paper, and why.
        weights: file names under :data:`WEIGHTS`.
    """

    name: str
    summary: str
    paper: str
    parameters: int
    multiple_of: int
    data: str
    licence: str
    source: str
    differs: str
    weights: tuple[str, ...] = ()


Builder = Callable[[int, int], "nn.Module"]
_B = TypeVar("_B", bound=Builder)

_REGISTRY: dict[str, tuple[Card, Builder]] = {}


def zoo_model(card: Card) -> Callable[[_B], _B]:
    """Registers a builder ``(channels, outputs) -> nn.Module`` under ``card.name``.

    Raises:
        ValueError: the name is taken, or a field that the card must state is empty.
    """
    empty = [
        name for name in ("name", "summary", "paper", "data", "licence", "source", "differs") if not getattr(card, name)
    ]
    if empty or card.multiple_of < 1:
        raise ValueError(f"the card of {card.name or 'a zoo model'} states no {', '.join(empty) or 'multiple_of'}")

    def register(builder: _B) -> _B:
        if card.name in _REGISTRY and _REGISTRY[card.name][1].__module__ != builder.__module__:
            raise ValueError(f"two zoo models are called {card.name!r}")
        _REGISTRY[card.name] = (card, builder)
        return builder

    return register


def list_models() -> tuple[str, ...]:
    """Names of all registered models, sorted.

    >>> list_models()
    ('unet-compact',)
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
    return _find(name)[0]


def card_text(card: Card) -> str:
    """A card as lines of text.

    >>> card_text(card("unet-compact")).splitlines()[0]
    'unet-compact: a compact U-Net for two or more classes'
    """
    facts = {
        "paper": card.paper,
        "parameters": f"{card.parameters:,} (one channel, one logit)",
        "image sides": f"multiples of {card.multiple_of} px on its own grid; images are padded",
        "differs": card.differs,
        "weights": ", ".join(card.weights) or "none shipped",
        "data": card.data,
        "licence": card.licence,
        "source": card.source,
    }
    return "\n".join([f"{card.name}: {card.summary}", *(f"  {key}: {value}" for key, value in facts.items())])


def build(name: str, channels: int, outputs: int) -> nn.Module:
    """A model with random weights.

    Args:
        name: a name of :func:`list_models`.
        channels: input channels.
        outputs: output channels; 1 = one logit for a binary task.

    Raises:
        UsageError: no model has this name.

    >>> sum(p.numel() for p in build("unet-compact", 1, 1).parameters()) == card("unet-compact").parameters
    True
    """
    return _find(name)[1](channels, outputs)


def _find(name: str) -> tuple[Card, Builder]:
    _load()
    if name not in _REGISTRY:
        raise UsageError("no zoo model has this name", where="zoo", got=name, then=did_you_mean(name, _REGISTRY))
    return _REGISTRY[name]


def _load() -> None:
    for module in BUILTIN:
        import_module(f"xaiseg.zoo.{module}")
    for point in entry_points(group="xaiseg.models"):
        point.load()
