"""Protocol files: what is read, merged, refused and hashed."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from xaiseg import protocol as protocols
from xaiseg.errors import UsageError
from xaiseg.protocol import (
    Decision,
    check_protocol,
    load_protocol,
    protocol_from_document,
    protocol_yaml,
    shipped_protocols,
)

HEAD = "protocol: mine\nversion: 1.0.0\n"
ONE = """\
protocol: mine
version: 1.0.0
checks:
  performance.segmentation: {match_iou: 0.3}
requires:
  - check: performance.segmentation
    metric: dice
    at_least: 0.70
    severity: gate
    why: Because.
"""


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


def message(path: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_protocol(path)
    return str(caught.value).replace(str(Path(path).parent), "DIR").replace("\\", "/")


# --- what ships ---


@pytest.mark.parametrize("name", ["base", "clinical"])
def test_a_resolved_protocol_loads_to_the_same_digest(name, tmp_path):
    held = load_protocol(name)
    again = [
        load_protocol(write(tmp_path, protocol_yaml(held))),
        load_protocol(write(tmp_path, json.dumps(held.resolved, indent=1), "mine.json")),
        protocol_from_document({"resolved": held.resolved, "source": "run"}),
    ]
    assert {one.sha256 for one in again} == {held.sha256}
    assert all(one.checks == held.checks and one.decision == held.decision for one in again)
    assert [one.id for one in again[0].requires] == [one.id for one in held.requires]


def test_clinical_holds_the_floors_that_were_fixed_before_training():
    held = load_protocol("clinical")
    gates = {one.id: (one.sense, one.bound) for one in held.requires if one.severity == "gate"}
    assert gates == {
        "data.integrity/overlap_train_test": ("at_most", 0.0),
        "data.integrity/failed_images": ("at_most", 0.01),
        "performance.segmentation/missed_lesions": ("at_most", 0.10),
        "performance.segmentation/dice": ("at_least", 0.70),
        "performance.segmentation/patients_dice_below_0.5": ("at_most", 0.15),
        "performance.segmentation/false_component_images": ("at_most", 0.10),
        "performance.segmentation/missed_lesions/each": ("at_most", 0.15),
        "robustness.degradation/dice_drop/level=mild": ("at_most", 0.05),
    }
    assert all(one.why and one.maps_to and one.agreed_by is None for one in held.requires)
    assert {one.metric for one in held.requires if one.gate_when == "readers_see_maps"} == {
        "excess_context_deletion",
        "randomisation_similarity",
    }
    assert held.checks["explanation"].sample == 40
    assert held.checks["robustness.degradation"].sample is None


def test_clinical_shows_what_it_inherits_from_base():
    base, clinical = load_protocol("base"), load_protocol("clinical")
    assert list(clinical.checks)[: len(base.checks)] == list(base.checks)
    assert clinical.cannot_tell == base.cannot_tell
    assert clinical.as_of == "2026-11-24"
    assert not base.requires
    assert "extends" not in clinical.resolved


def test_no_shipped_protocol_speaks_of_compliance():
    for path in shipped_protocols().values():
        assert "complian" not in path.read_text(encoding="utf-8").lower()


def test_protocols_are_found_inside_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "protocols").mkdir()
    write(tmp_path / "protocols", ONE)
    monkeypatch.setattr(protocols.resources, "files", lambda package: tmp_path)
    assert list(shipped_protocols()) == ["mine"]
    held = load_protocol("mine")
    assert held.source == "protocols/mine.yaml"
    assert held.requires[0].source == "protocols/mine.yaml:6"


def test_an_unknown_name_gets_a_hint():
    assert "did you mean 'clinical'?" in message("clinicl")


# --- reading ---


def test_parameters_become_what_the_check_declares(tmp_path):
    held = load_protocol(write(tmp_path, ONE))
    params = held.checks["performance.segmentation"].params
    assert type(params).__dataclass_params__.frozen
    assert params.match_iou == 0.3
    text = HEAD + "checks: {explanation: {methods: [occlusion], steps: 4, cases: {sample: 7}}}"
    plan = load_protocol(write(tmp_path, text)).checks["explanation"]
    assert plan.params.methods == ("occlusion",)
    assert plan.sample == 7


def test_the_digest_sees_meaning_and_nothing_else(tmp_path):
    held = load_protocol(write(tmp_path, ONE))
    same = "# a comment\nversion: 1.0.0\nprotocol: 'mine'\n" + ONE.split("\n", 2)[2].replace("0.70", "7.0e-1")
    assert load_protocol(write(tmp_path, same, "other.yaml")).sha256 == held.sha256
    for old, new in (("0.70", "0.71"), ("0.3}", "0.4}"), ("Because", "Why not"), ("gate", "warn"), ("1.0.0", "1.0.1")):
        assert load_protocol(write(tmp_path, ONE.replace(old, new))).sha256 != held.sha256


def test_looks_divide_alpha(tmp_path):
    held = load_protocol(write(tmp_path, ONE + "decision: {looks: 5}\n"))
    assert held.decision == Decision(0.95, 5, 5)
    assert held.decision.alpha == pytest.approx(0.01)


def test_levels_and_guideline_items_are_text(tmp_path):
    text = ONE + "    where: {blur_px: 1, gain: 0.5}\n    maps_to: {claim-2024: [28, 9.5, 'x']}\n"
    requirement = load_protocol(write(tmp_path, text)).requires[0]
    assert requirement.where == {"blur_px": "1", "gain": "0.5"}
    assert requirement.maps_to == {"claim-2024": ("28", "9.5", "x")}
    assert requirement.id == "performance.segmentation/dice/blur_px=1,gain=0.5"


# --- extends ---


def test_a_child_changes_only_what_it_names(tmp_path):
    write(
        tmp_path,
        """\
        protocol: parent
        version: 1.0.0
        as_of: 2026-01-01
        purpose: Parent.
        decision: {min_clusters: 8}
        checks:
          performance.segmentation: {match_iou: 0.3, tolerance_px: 4.0}
          provenance:
        requires:
          - {check: performance.segmentation, metric: dice, at_least: 0.7}
          - {check: performance.segmentation, metric: iou, at_least: 0.5}
        use: [one]
        """,
        "parent.yaml",
    )
    child = load_protocol(
        write(
            tmp_path,
            """\
            protocol: child
            version: 2.0.0
            extends: parent.yaml
            decision: {looks: 2}
            checks:
              performance.segmentation: {match_iou: 0.2}
              data.integrity: {}
            requires:
              - {check: performance.segmentation, metric: nsd, at_least: 0.6}
              - {check: performance.segmentation, metric: dice, at_least: 0.8}
            use: [two, one]
            """,
        )
    )
    assert (child.name, child.as_of, child.purpose) == ("child", "2026-01-01", "Parent.")
    assert child.decision == Decision(min_clusters=8, looks=2)
    assert list(child.checks) == ["performance.segmentation", "provenance", "data.integrity"]
    params = child.checks["performance.segmentation"].params
    assert (params.match_iou, params.tolerance_px) == (0.2, 4.0)
    assert [(one.metric, one.bound) for one in child.requires] == [("dice", 0.8), ("iou", 0.5), ("nsd", 0.6)]
    assert [Path(one.source.rpartition(":")[0]).name for one in child.requires] == [
        "mine.yaml", "parent.yaml", "mine.yaml",
    ]  # fmt: skip
    assert child.requires[1].source.endswith("parent.yaml:11")
    assert child.use == ("one", "two")


def test_a_circle_of_extends_is_refused(tmp_path):
    write(tmp_path, HEAD + "extends: b.yaml\n", "a.yaml")
    write(tmp_path, HEAD + "extends: a.yaml\n", "b.yaml")
    said = message(str(tmp_path / "a.yaml"))
    assert "runs in a circle" in said
    assert "a.yaml > b.yaml > a.yaml" in said


def test_extends_may_name_a_shipped_protocol_or_nothing_at_all(tmp_path):
    assert len(load_protocol(write(tmp_path, HEAD + "extends: clinical\n")).requires) == 13
    assert "'clinicaal' is neither a shipped protocol nor a file" in message(
        write(tmp_path, HEAD + "extends: clinicaal")
    )


def test_a_mistake_in_the_parent_names_the_parent(tmp_path):
    write(tmp_path, HEAD + "purpos: x\n", "parent.yaml")
    assert message(write(tmp_path, HEAD + "extends: parent.yaml\n")).startswith(
        "DIR/parent.yaml:3: 'purpos' is not a key"
    )


# --- mistakes, each with its line ---


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("at_least", "at_leest", "mine.yaml:8: 'at_leest' is not a key of a requirement. did you mean 'at_least'?"),
        ("requires:", "requiers:", "mine.yaml:5: 'requiers' is not a key of a protocol. did you mean 'requires'?"),
        ("match_iou", "match_iuo", "mine.yaml:4: 'match_iuo' is not a parameter of performance.segmentation. did you "),
        ("match_iou: 0.3", "match_iou: lots", "mine.yaml:4: performance.segmentation match_iou: Input should be "),
        ("match_iou: 0.3", "cases: some", "mine.yaml:4: 'checks.performance.segmentation.cases': input should"),
        ("match_iou: 0.3", "cases: {sample: 0}", "mine.yaml:4: 'checks.performance.segmentation.cases.sample': input "),
        ("match_iou: 0.3", "cases: {samples: 4}", "mine.yaml:4: 'samples' is not a key of cases. did you mean 's"),
        ("  performance.segmentation: ", "  performance.segmentatoin: ",
         "mine.yaml:4: 'performance.segmentatoin' is not a check. did you mean 'performance.segmentation'?"),
        ("- check: performance.segmentation", "- check: calibration.pixels",
         "mine.yaml:6: the check 'calibration.pixels' is required, but does not stand under `checks:`"),
        ("at_least: 0.70", "at_least: 0.70\n    at_most: 0.9", "mine.yaml:6: a requirement has exactly one of "),
        ("    at_least: 0.70\n", "", "mine.yaml:6: a requirement has exactly one of at_least, at_most, with"),
        ("at_least: 0.70", "at_least: high", "mine.yaml:8: 'requires.0.at_least': input should be a valid number"),
        ("at_least: 0.70", "at_least: true", "mine.yaml:8: 'requires.0.at_least': input should be a valid number"),
        ("at_least: 0.70", "at_least: .nan", "mine.yaml:8: the number is not finite"),
        ("at_least: 0.70", "within: -0.1", "mine.yaml:8: 'requires.0.within': input should be greater than 0"),
        ("    why: Because.\n", "", "mine.yaml:6: a gate needs `why:`"),
        ("gate\n    why: Because.", "warn\n    gate_when: readers_see_maps", "mine.yaml:6: a gate needs `why:`"),
        ("why: Because.", "why: '  '", "mine.yaml:6: a gate needs `why:`"),
        ("severity: gate", "severity: gat", "mine.yaml:9: 'requires.0.severity': input should be 'gate', 'warn'"),
        ("why: Because.", "why: X.\n    applies_when: not readers_see_map", "did you mean 'readers_see_maps'?"),
        ("why: Because.", "why: X.\n    assume: {value: 0.6, sd: 0.2}", "mine.yaml:6: assume.value 0.6 does not meet "),
        ("why: Because.", "why: X.\n    assume: {valeu: 0.8}", "mine.yaml:11: 'valeu' is not a key of assume. did you"),
        ("metric: dice", "metirc: dice", "mine.yaml:7: 'metirc' is not a key of a requirement. did you mean 'metric'?"),
        ("version: 1.0.0", "versoin: 1.0.0", "mine.yaml:2: 'versoin' is not a key of a protocol"),
        ("version: 1.0.0", "version: 1.0", "mine.yaml:2: 'version': input should be a valid string. Got: 1.0."),
        ("checks:", "decision: {confidence: 95}\nchecks:", "mine.yaml:3: 'decision.confidence': input should be le"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(old, new, said, tmp_path):
    assert old in ONE
    assert said in message(write(tmp_path, ONE.replace(old, new, 1)))


def test_an_empty_file_says_what_is_missing(tmp_path):
    assert message(write(tmp_path, "")) == "DIR/mine.yaml: the key 'protocol' is missing."


def test_a_requirement_that_stands_twice_is_refused(tmp_path):
    twice = ONE + "  - {check: performance.segmentation, metric: dice, at_most: 0.9}\n"
    assert "mine.yaml:11: the requirement on performance.segmentation dice stands twice, first at DIR/mine.yaml:6" in (
        message(write(tmp_path, twice))
    )
    strata = ONE + "  - {check: performance.segmentation, metric: dice, at_least: 0.6, stratum: each}\n"
    assert len(load_protocol(write(tmp_path, strata)).requires) == 2


def test_check_protocol_lists_every_problem_and_what_is_missing_last(tmp_path):
    text = ONE.replace("at_least", "at_leest").replace("severity: gate", "severity: gat").replace("version:", "vers:")
    said = [problem.split("mine.yaml")[1] for problem in check_protocol(write(tmp_path, text))]
    assert [line.split(":")[1] for line in said[:3]] == ["2", "8", "9"]
    assert said[3] == ": the key 'version' is missing."
    assert check_protocol("clinical") == []
    assert "neither a shipped protocol nor a file" in check_protocol("nonesuch.yaml")[0]


def test_the_example_of_the_documentation_loads(repository, tmp_path):
    text = (repository / "docs" / "protocols.md").read_text(encoding="utf-8")
    held = load_protocol(write(tmp_path, text.split("```yaml\n")[1].split("```")[0]))
    assert held.name == "breast-unit"
    assert next(one.bound for one in held.requires if one.metric == "dice" and not one.stratum) == 0.80
