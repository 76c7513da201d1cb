"""What parameters of checks and explainers have in common."""

from __future__ import annotations

import dataclasses


def frozen_with_defaults(params: type) -> bool:
    """Whether a class is a frozen dataclass whose fields all have defaults, so that a protocol may leave any out.

    >>> frozen_with_defaults(dataclasses.make_dataclass("P", [("n", int, 3)], frozen=True)), frozen_with_defaults(int)
    (True, False)
    """
    if not dataclasses.is_dataclass(params) or not params.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return False
    missing = dataclasses.MISSING
    return all(f.default is not missing or f.default_factory is not missing for f in dataclasses.fields(params))
