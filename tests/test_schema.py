"""The JSON Schemas agree with what the package reads and writes."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest

from tests.audit_documents import audit
from xaiseg.errors import UsageError
from xaiseg.protocol import check_protocol, load_protocol, shipped_protocols
from xaiseg.schema import json_schema
from xaiseg.yamlfile import parse_yaml, read_yaml

HEAD = "protocol: mine\nversion: 1.0.0\nchecks: {performance.segmentation: {}}\n"


def accepts(kind, document) -> bool:
    return jsonschema.Draft202012Validator(json_schema(kind)).is_valid(document)


@pytest.mark.parametrize("kind", ["model", "protocol", "audit"])
def test_each_schema_is_a_schema_and_plain_json(kind):
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema


def test_an_unknown_kind_gets_a_hint():
    with pytest.raises(UsageError, match="did you mean 'protocol'"):
        json_schema("protocl")


def test_shipped_protocols_fit_as_written_and_as_resolved():
    for name, path in shipped_protocols().items():
        jsonschema.validate(read_yaml(path).data, json_schema("protocol"))
        jsonschema.validate(dict(load_protocol(name).resolved), json_schema("protocol"))


@pytest.mark.parametrize(
    "body",
    [
        "requires: [{check: performance.segmentation, metric: dice, at_least: 0.7}]",
        "requires: [{check: performance.segmentation, metric: dice, at_leest: 0.7}]",
        "requires: [{check: performance.segmentation, metric: dice, at_least: 0.7, at_most: 0.9}]",
        "requires: [{check: performance.segmentation, metric: dice}]",
        "requires: [{check: performance.segmentation, metric: dice, at_least: 0.7, severity: gate}]",
        "requires: [{check: performance.segmentation, metric: dice, at_least: 0.7, severity: gate, why: x}]",
        "requires: [{check: performance.segmentation, metric: dice, within: -1}]",
        "requires: [{metric: dice, at_least: 0.7}]",
        "decision: {confidence: 95}",
        "decision: {looks: 2}",
        "decisions: {}",
        "use: one",
        "purpose: 3",
    ],
)
def test_the_schema_agrees_with_the_loader(body, tmp_path):
    text = HEAD + body + "\n"
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert accepts("protocol", parse_yaml(text, path=path).data) == (check_protocol(path) == [])


@pytest.mark.parametrize(
    "checks",
    [
        "{performance.segmentation: {match_iou: 0.3}}",
        "{performance.segmentation: {match_iuo: 0.3}}",
        "{performance.segmentation: {match_iou: high}}",
        "{performance.segmentation: {cases: {sample: 3}}}",
        "{performance.segmentation: {cases: {sample: 0}}}",
        "{performance.segmentation: {cases: some}}",
        "{performance.segmentatoin: {}}",
        "{provenance: }",
    ],
)
def test_the_schema_knows_the_parameters_of_each_check(checks, tmp_path):
    text = f"protocol: mine\nversion: 1.0.0\nchecks: {checks}\n"
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert accepts("protocol", parse_yaml(text, path=path).data) == (check_protocol(path) == [])


def test_an_audit_fits():
    jsonschema.validate(audit(), json_schema("audit"))


def test_an_interval_may_be_short():
    document = audit()
    whole = document["estimates"][0]["interval"]
    document["estimates"][0]["interval"] = {n: whole[n] for n in ("lower", "upper", "level", "alpha", "method")}
    jsonschema.validate(document, json_schema("audit"))


def broken():
    yield "no schema", lambda d: d.pop("schema")
    yield "another version", lambda d: d.update(schema="xaiseg-audit/2")
    yield "no overall", lambda d: d.pop("overall")
    yield "unknown verdict", lambda d: d["findings"][0].update(verdict="OK")
    yield "no reason", lambda d: d["findings"][0].pop("reason")
    yield "text as value", lambda d: d["estimates"][0].update(value="NaN")
    yield "interval without level", lambda d: d["estimates"][0]["interval"].pop("level")
    yield "no n_clusters", lambda d: d["estimates"][0].pop("n_clusters")
    yield "no bound", lambda d: d["findings"][0]["requirement"].pop("bound")
    yield "text as exit code", lambda d: d["overall"].update(exit_code="0")


@pytest.mark.parametrize(("what", "breaks"), list(broken()), ids=lambda item: item if isinstance(item, str) else "")
def test_a_broken_audit_does_not_fit(what, breaks):
    document = copy.deepcopy(audit())
    breaks(document)
    assert not accepts("audit", document), what
