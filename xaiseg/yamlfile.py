"""YAML files with line numbers: read safely, refuse what hides or multiplies, and name the line of every mistake."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xaiseg.errors import UsageError

Place = tuple[str | int, ...]

MAX_BYTES: Final = 1_000_000
MAX_DEPTH: Final = 20
_TAG: Final = "tag:yaml.org,2002:"
#: A date stays the text that was written.
_SCALARS: Final = {_TAG + name for name in ("null", "bool", "int", "float", "str", "timestamp")}


@dataclass(frozen=True)
class YamlFile:
    """A YAML file as plain data, and the line of each key and item.

    Attributes:
        path: the file.
        text: its text.
        data: mappings, lists, text, numbers, booleans and None.
        lines: place, e.g. ``("requires", 3, "at_most")`` -> line, counted from 1.
    """

    path: Path
    text: str
    data: dict[str, Any]
    lines: Mapping[Place, int]

    def where(self, *keys: str | int) -> str:
        """``file:line`` of a place."""
        return where(self.path, self.lines, keys)


def where(path: str | Path, lines: Mapping[Place, int], keys: Place) -> str:
    """``file:line`` of a place, or of the nearest thing that holds it.

    >>> where("m.yaml", {("data",): 4}, ("data", "test", "path"))
    'm.yaml:4'
    """
    while keys and keys not in lines:
        keys = keys[:-1]
    return f"{path}:{lines[keys]}" if keys else str(path)


def read_yaml(path: Path) -> YamlFile:
    """Reads a YAML file whose top level is a mapping.

    Args:
        path: the file, UTF-8, at most 1 MB.

    Raises:
        UsageError: no such file, too large, not UTF-8, broken YAML, a key that stands twice, an anchor or alias, a
            tag, a number that is not finite, or nesting deeper than 20.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError("the file is too large", where=path, got=f"{path.stat().st_size} bytes", allowed="1 MB")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError("the file is not UTF-8 text", where=path, got=f"byte {error.start}") from error
    except OSError as error:
        raise UsageError("the file cannot be read", where=path, got=error.strerror) from error
    return parse_yaml(text, path=path)


def parse_yaml(text: str, *, path: Path) -> YamlFile:
    r"""Reads YAML text; see :func:`read_yaml`.

    >>> parse_yaml("a: 1\nb: [x, y]", path=Path("m.yaml")).where("b", 1)
    'm.yaml:2'
    >>> parse_yaml("a: 1\na: 2", path=Path("m.yaml"))
    Traceback (most recent call last):
    xaiseg.errors.UsageError: m.yaml:2: 'a' stands twice, first in line 1. Keep one of them.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        _refuse_tricks(yaml.parse(text), path)
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"the YAML is broken: {error.problem}", where=f"{path}{line}") from error
    except YAMLError as error:
        raise UsageError("the YAML is broken", where=path, got=str(error).splitlines()[0]) from error
    lines: dict[Place, int] = {}
    data = None if node is None else _plain(yaml.constructor, node, (), lines, path)
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise UsageError("the file is not a mapping of keys to values", where=path, got=type(data).__name__)
    return YamlFile(path, text, data, lines)


def _refuse_tricks(events: Any, path: Path) -> None:
    depth = 0
    for event in events:
        kind = type(event).__name__
        at = f"{path}:{event.start_mark.line + 1}"
        if kind == "AliasEvent" or getattr(event, "anchor", None):
            raise UsageError("anchors and aliases are not allowed", where=at, then="Write the value out.")
        depth += kind in ("MappingStartEvent", "SequenceStartEvent")
        depth -= kind in ("MappingEndEvent", "SequenceEndEvent")
        if depth > MAX_DEPTH:
            raise UsageError("the YAML is nested too deeply", where=at, allowed=f"{MAX_DEPTH} levels")


def _plain(constructor: Any, node: Any, place: Place, lines: dict[Place, int], path: Path) -> Any:
    lines.setdefault(place, node.start_mark.line + 1)
    if node.tag == _TAG + "map":
        return _mapping(constructor, node, place, lines, path)
    if node.tag == _TAG + "seq":
        return [_plain(constructor, item, (*place, i), lines, path) for i, item in enumerate(node.value)]
    at = f"{path}:{node.start_mark.line + 1}"
    if node.tag not in _SCALARS:
        raise UsageError(f"the tag {node.tag} is not allowed", where=at, allowed="plain values")
    if node.tag == _TAG + "timestamp":
        return node.value
    try:
        value = constructor.construct_object(node)
    except ValueError as error:
        raise UsageError("the number cannot be read", where=at, got=node.value) from error
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError("the number is not finite", where=at, got=node.value)
    return value


def _mapping(constructor: Any, node: Any, place: Place, lines: dict[Place, int], path: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key.value, str):
            raise UsageError("a key must be text", where=f"{path}:{line}")
        inner = (*place, key.value)
        if key.value in result:
            raise UsageError(
                f"'{key.value}' stands twice, first in line {lines[inner]}",
                where=f"{path}:{line}",
                then="Keep one of them.",
            )
        lines[inner] = line
        result[key.value] = _plain(constructor, value, inner, lines, path)
    return result
