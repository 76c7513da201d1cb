"""JSON Schemas of the files that people and pipelines read and write: model.yaml, protocols and audit.json.

Editors complete and check model.yaml and protocol files with them (``# yaml-language-server: $schema=...``); a pipeline
can check audit.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from xaiseg.errors import UsageError, did_you_mean

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a file.

    Args:
        kind: "model" (model.yaml), "protocol" (protocol files) or "audit" (audit.json).

    Raises:
        UsageError: another kind.

    >>> json_schema("audit")["properties"]["schema"]["const"]
    'xaiseg-audit/1'
    """
    if kind not in _KINDS:
        raise UsageError("there is no schema of this kind", got=repr(kind), then=did_you_mean(kind, _KINDS))
    title, make = _KINDS[kind]
    return {"$schema": DIALECT, "title": title} | make()


def _model() -> dict[str, Any]:
    from xaiseg.modelfile import ModelDocument

    return _described(ModelDocument.model_json_schema())


def _protocol() -> dict[str, Any]:
    """The keys of a protocol; under ``checks:`` each registered check with its own parameters."""
    from pydantic import TypeAdapter

    from xaiseg.checks.base import load_checks
    from xaiseg.protocol_file import SENSES, ProtocolText

    document = _described(ProtocolText.model_json_schema())
    definitions = document["$defs"]
    cases = definitions.pop("CheckText")["properties"]["cases"]
    checks = {}
    for name, check in load_checks().items():
        params = TypeAdapter(check.params).json_schema()
        definitions |= params.pop("$defs", {})
        properties = {"cases": cases, **params.get("properties", {})}
        own = {"description": check.question, "properties": properties, "additionalProperties": False}
        checks[name] = {"anyOf": [{"type": "object", **own}, {"type": "null"}]}
    described = document["properties"]["checks"]["description"]
    document["properties"]["checks"] = {
        "type": "object",
        "description": described,
        "properties": checks,
        "additionalProperties": False,
    }
    requirement = definitions["RequirementText"]
    requirement["oneOf"] = [{"required": [sense], "properties": {sense: {"type": "number"}}} for sense in SENSES]
    gate = {"properties": {"severity": {"const": "gate"}}, "required": ["severity"]}
    requirement |= {"if": gate, "then": {"required": ["why"]}}
    return document


def _audit() -> dict[str, Any]:
    """audit.json: what the report shows, for machines. NaN never occurs: a number that is undefined is null."""
    from pydantic import TypeAdapter

    from xaiseg.estimate import Estimate
    from xaiseg.judge import Finding, Overall

    definitions: dict[str, Any] = {}

    def of(kind: type) -> dict[str, Any]:
        schema = TypeAdapter(kind).json_schema(ref_template="#/$defs/{model}", mode="serialization")
        definitions.update(schema.pop("$defs", {}))
        return _closed(schema)

    estimate, finding, overall = of(Estimate), of(Finding), of(Overall)
    interval = definitions["Interval"]
    interval["properties"]["level"] = {"type": "number", "description": "two-sided level of [lower, upper]"}
    finding["properties"] |= {"id": {"type": "string"}, "severity": {"enum": ["gate", "warn", "info"]}}
    finding["required"] = [*finding["required"], "id", "severity"]
    interval["required"] = ["lower", "upper", "level", "alpha", "method"]
    for name in ("Interval", "Requirement"):
        definitions[name] = _open(definitions[name])
    definitions |= {"Estimate": _open(estimate), "Finding": _open(finding), "Overall": _open(overall)}
    return _described({"type": "object", **_AUDIT_SHAPE, "$defs": definitions})


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """audit.json writes every field, also those that have defaults."""
    return schema | {"required": list(schema["properties"])}


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """A later version may add fields; a reader must not stumble over them."""
    return {key: value for key, value in schema.items() if key != "additionalProperties"}


def _described(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Without the titles that pydantic derives from names: editors would show them in place of the descriptions."""
    return {key: _untitled(value) for key, value in schema.items() if key != "title"}


def _untitled(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_untitled(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A property may itself be called "title"; only a text is the title of a schema.
    return {key: _untitled(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}


def _object(required: list[str], **properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_TOP: Final[Mapping[str, Mapping[str, Any]]] = {
    "schema": {"const": "xaiseg-audit/1"},
    "tool": {"type": "object"},
    "protocol": _object(
        ["name", "version", "sha256", "resolved"], name=_TEXT, version=_TEXT, sha256=_TEXT, resolved={"type": "object"}
    ),
    "model": _object(["name"], name=_TEXT, weights_sha256={"type": ["string", "null"]}),
    "data": {"type": "object"},
    "environment": {"type": "object"},
    "estimates": {"type": "array", "items": {"$ref": "#/$defs/Estimate"}},
    "findings": {"type": "array", "items": {"$ref": "#/$defs/Finding"}},
    "overall": {"$ref": "#/$defs/Overall"},
    "errors": {"type": "array", "items": {"type": "object"}},
    "assumptions": _TEXTS,
    "signatures": {"type": "array"},
}
_AUDIT_SHAPE: Final[Mapping[str, Any]] = {"properties": _TOP, "required": list(_TOP)}
_KINDS: Final[Mapping[str, tuple[str, Callable[[], dict[str, Any]]]]] = {
    "model": ("model.yaml of xaiseg", _model),
    "protocol": ("protocol of xaiseg", _protocol),
    "audit": ("audit.json of xaiseg", _audit),
}
