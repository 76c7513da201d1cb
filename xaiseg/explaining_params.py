"""Parameters of explainers as a command line gives them, and the layer that is chosen by measuring."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from xaiseg.errors import UsageError, did_you_mean
from xaiseg.explainers.base import Explainer, Session, get_explainer, load_explainers
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.layers import rank_layers

#: In the place of a layer's name: the one that :func:`~xaiseg.faithfulness.layers.rank_layers` puts first.
BEST: Final = "best"
_WHERE: Final = "--param"


def method_lines() -> list[str]:
    """A line a method for the command line: its name, what it needs, its most forwards, its parameters.

    >>> [line for line in method_lines() if line.startswith("occlusion ")]
    ['occlusion             needs scores; at most 65 forwards; grid=8 baseline=mean refine=0 left=0.2']
    """
    lines = []
    for name, each in sorted(load_explainers().items()):
        needs = " and ".join(sorted(each.needs))
        held = " ".join(f"{field.name}={field.default}" for field in dataclasses.fields(each.params))
        lines.append(f"{name:21} needs {needs}; at most {each.forwards():,} forwards" + (f"; {held}" if held else ""))
    return lines


def parse_params(settings: Iterable[str], methods: Sequence[str]) -> dict[str, Any]:
    """Method -> its parameters, for the methods that a setting concerns.

    Args:
        settings: "NAME=VALUE" for every method that has such a parameter, or "METHOD.NAME=VALUE" for one. A value is
            read as JSON where it is that, else as text.
        methods: names of the explainers that run.

    Raises:
        UsageError: no method has the parameter, or the value is not of its kind or range.

    >>> parse_params(["grid=16", "rise.masks=512"], ["rise", "hirescam"])["rise"].grid
    16
    """
    given: dict[str, dict[str, Any]] = {}
    for setting in settings:
        left, sign, text = setting.partition("=")
        method, _, name = left.strip().rpartition(".")
        if not sign or not name:
            raise UsageError("this is no setting", where=_WHERE, got=setting, allowed="NAME=VALUE or METHOD.NAME=VALUE")
        if method and method not in methods:
            raise UsageError("the method does not run", where=_WHERE, got=method, allowed=", ".join(methods))
        asked = [method] if method else list(methods)
        concerned = [each for each in asked if name in _fields(each)]
        if not concerned:
            raise _unknown(name, asked)
        for each in concerned:
            given.setdefault(each, {})[name] = _value(each, name, text.strip())
    return {method: _made(method, values) for method, values in given.items()}


def _unknown(name: str, methods: Sequence[str]) -> UsageError:
    """The error for a parameter that none of the asked methods has."""
    known = sorted({field for each in methods for field in _fields(each)})
    whose = methods[0] if len(methods) == 1 else "none of " + ", ".join(methods)
    what = f"{whose} has no such parameter" if len(methods) == 1 else f"{whose} has such a parameter"
    then = did_you_mean(name, known) if known else "It has none"
    return UsageError(what, where=_WHERE, got=name, then=then)


def _fields(method: str) -> list[str]:
    return [field.name for field in dataclasses.fields(get_explainer(method).params)]


def _value(method: str, name: str, text: str) -> Any:
    try:
        plain = json.loads(text)
    except ValueError:
        plain = text
    try:
        kind = TypeAdapter(get_type_hints(get_explainer(method).params)[name])
    except PydanticSchemaGenerationError as error:
        raise UsageError("the parameter can only be given from Python", where=f"{_WHERE} {method}.{name}") from error
    try:
        # By way of JSON, because strict JSON takes a list for a tuple and a whole number for a float, and no more.
        return kind.validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        what = str(error.errors(include_url=False)[0]["msg"])
        raise UsageError(f"the value does not suit: {what}", where=f"{_WHERE} {method}.{name}", got=text) from error


def _made(method: str, values: dict[str, Any]) -> Any:
    try:
        return get_explainer(method).params(**values)
    except UsageError as error:
        raise UsageError(str(error).rstrip("."), where=f"{_WHERE} {method}") from error


def settled(session: Session, method: Explainer, targets: Sequence[object], params: Any) -> tuple[Any, str]:
    """The parameters with a named layer where they ask for the best one, and a note on how it was chosen.

    Args:
        session: the image and the model.
        method: the explainer.
        targets: what is explained; the first one chooses.
        params: its parameters, or None for its defaults.

    Raises:
        UsageError: the first target is no region of a segmenter.
    """
    if getattr(params, "layer", None) != BEST:
        return params, ""
    first = targets[0]
    if isinstance(session, DetectionSession) or not isinstance(first, Region):
        what = "layers are ranked by the region that a segmenter predicts, and the first target is none"
        raise UsageError(what, where="layer", got=BEST, then="Name a layer, or leave it out")
    ranked = rank_layers(session, first, method=method.name)
    told = ", ".join(f"{each.layer} ({each.rows} x {each.columns}) {each.score:.3f}" for each in ranked)
    whose = f" of {first.name}, for all {len(targets)} targets," if len(targets) > 1 else ""
    note = f"layer chosen on this image{whose} by the deletion curves of its map, so that they flatter it: {told}"
    return dataclasses.replace(params, layer=ranked[0].layer), note
