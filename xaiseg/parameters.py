"""What parameters of checks and explainers have in common."""

from __future__ import annotations

import dataclasses
from functools import cache
from importlib.metadata import entry_points


def frozen_with_defaults(params: type) -> bool:
    """Whether a class is a frozen dataclass whose fields all have defaults, so that a protocol may leave any out.

    >>> frozen_with_defaults(dataclasses.make_dataclass("P", [("n", int, 3)], frozen=True)), frozen_with_defaults(int)
    (True, False)
    """
    if not dataclasses.is_dataclass(params) or not params.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return False
    missing = dataclasses.MISSING
    return all(f.default is not missing or f.default_factory is not missing for f in dataclasses.fields(params))


@cache
def load_entry_points(group: str) -> None:
    """Imports what third parties registered under a group; once, since a look at all distributions takes 20 ms."""
    for entry in entry_points(group=group):
        entry.load()
