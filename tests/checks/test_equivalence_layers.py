import numpy as np
import pytest
import torch
from torch import nn

from tests.checks import integer_builds as builds
from tests.checks.fake import frame, make_case, quantities, tables
from tests.hardware.networks import seeded
from xaiseg.checks.base import get_check
from xaiseg.checks.equivalence_layers import ID, Params
from xaiseg.errors import SubjectError, UsageError
from xaiseg.hardware import integer
from xaiseg.hardware.ladder import NotGoldenError, fake_quantised
from xaiseg.modelfile_variants import VariantSpec

SIDE = 16


class Spiked(nn.Module):
    """Foreground where the image is brighter than 0.5. A second channel answers to white blocks alone, hugely.

    Both channels share one format, so a range that holds the huge values has no integer left for the image.
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 2, 5, padding=2)
        self.head = nn.Conv2d(2, 1, 1)
        self.first.weight.data = torch.stack((torch.zeros(1, 5, 5), torch.full((1, 5, 5), 0.25)))
        self.first.weight.data[0, 0, 2, 2] = 2.0**-8
        self.first.bias.data = torch.tensor([0.0, -5.0])
        self.head.weight.data = torch.tensor([512.0, 0.0]).view(1, 2, 1, 1)
        self.head.bias.data = torch.tensor([-1.0])

    def forward(self, x):
        return self.head(torch.relu(self.first(x)))


def image_of(seed):
    """Dark and bright pixels in equal parts, none of them near 0.5."""
    random = torch.Generator().manual_seed(seed)
    values = torch.rand(1, SIDE, SIDE, generator=random)
    return torch.where(values < 0.5, 0.8 * values, 0.8 * values + 0.15)


def case_of(seed):
    image = image_of(seed)
    return make_case(f"c{seed}", (image[0] > 0.5).numpy(), image=image.numpy(), cluster=f"p{seed}")


def calibration():
    images = [image_of(100 + n) for n in range(4)]
    images[0][0, :5, :5] = 1.0
    return images


@pytest.fixture(scope="module")
def network():
    return Spiked().eval()


def variants_of(network, **specs):
    made = {}
    for name, given in specs.items():
        spec = VariantSpec(**{"hardware": "msdf", **given})
        made[name] = builds.build(network, builds.integers(network, calibration(), spec), spec, name=name)
    return made


def measured(network, variants, *, count=3, params=None, lose=""):
    check, params = get_check(ID), params or Params()
    once = check.measure_once(builds.context(network, None, variants, params), {})
    rows = [{"case": "", **row} for row in once]
    cases = [case_of(seed) for seed in range(count)]
    for case in cases:
        context = builds.context(network, case, variants, params)
        if lose:
            context.others[lose] = SubjectError("lost.")
        rows += [{"case": case.id, **row} for row in check.measure(context, case)]
    frame(ID, rows)
    return rows, cases


def estimated(rows, cases, names, *, params=None, chances=None, **specs):
    held = tables({ID: rows}, cases, variants={name: specs.get(name, {}) for name in names})
    held.cases[f"p:{ID}"] = chances if chances is not None else 1.0
    return quantities(ID, held, params)


def test_the_rung_and_the_layer_that_break_are_found(network):
    """The range of the largest value has no integers left for the image; that of the least squared error has."""
    made = variants_of(network, wide={"observer": "max"}, sane={"observer": "percentile", "percentile": 99.0})
    rows, cases = measured(network, made)
    found = estimated(rows, cases, made)
    broken = found["wide", "rungs_that_break"]
    assert broken.values.tolist() == [2.0]  # D has other scales, so the ruined values are other ones
    assert "first C, fake quantisation, free scales" in broken.note
    low = found["wide", "layers_below_floor"]
    assert low.values.tolist() == [2.0]  # the first layer and the head behind it; the image itself is fine
    assert "first in first (" in low.note
    for metric in ("rungs_that_break", "layers_below_floor"):
        assert found["sane", metric].values.tolist() == [0.0]
        assert found["sane", metric].note.endswith("none does.")


def test_left_out_digits_break_at_their_own_rung(network):
    made = variants_of(network, short={"observer": "percentile", "percentile": 99.0, "digits": -8})
    found = estimated(*measured(network, made), made)
    assert "first F, digit-serial units, fewer digits" in found["short", "rungs_that_break"].note
    assert found["short", "flips", "", "rung", "E"].values.tolist() == [0.0] * 3


def test_flips_of_a_rung_by_hand(network):
    made = variants_of(network, wide={"observer": "max", "hardware": "fake"})
    rows, cases = measured(network, made)
    rungs = [row for row in rows if row.get("factor") == "rung"]
    assert [(row["case"], row["level"]) for row in rungs] == [(case.id, rung) for case in cases for rung in "BC"]
    held = made["wide"].build.integers
    for case in cases:
        x = torch.as_tensor(case.image)[None]
        with torch.inference_mode():
            changed = ((network(x) >= 0) != (fake_quantised(held, (x,)) >= 0)).sum()
        (row,) = (row for row in rungs if row["case"] == case.id and row["level"] == "C")
        assert row["flips"] == row["flips_from_float"] == int(changed) > 0
        assert row["pixels"] == SIDE**2
    found = estimated(rows, cases, made)
    assert found["wide", "flips", "", "rung", "C"].values[0] == rungs[1]["flips"] / SIDE**2


def test_pixels_that_readers_left_open_are_not_counted(network):
    made = variants_of(network, wide={"observer": "max", "hardware": "fake"})
    case = case_of(0)
    reference = case.reference.copy()
    reference[:, : SIDE // 2] = 255
    half = make_case(case.id, reference, image=case.image)
    rows = list(get_check(ID).measure(builds.context(network, half, made, Params()), half))
    whole = list(get_check(ID).measure(builds.context(network, case, made, Params()), case))
    assert rows[-1]["pixels"] == SIDE**2 // 2
    assert rows[-1]["flips"] < whole[-1]["flips"]


def test_the_operating_threshold_decides(network):
    """At a threshold of 0.9 other pixels lie near the border than at 0.5."""
    spec = VariantSpec(observer="percentile", percentile=99.0, bits=4)
    held = builds.integers(network, calibration(), spec)
    ramp = torch.linspace(0, 0.95, SIDE**2).view(1, SIDE, SIDE)
    case = make_case("ramp", (ramp[0] > 0.5).numpy(), image=ramp.numpy())
    counts = {}
    for threshold in (0.5, 0.9):
        made = {"v": builds.build(network, held, spec, threshold=threshold)}
        context = builds.context(network, case, made, Params(), threshold=threshold)
        counts[threshold] = list(get_check(ID).measure(context, case))[-1]["flips_from_float"]
        labels = [each.labels for each in (context.held, context.others["v"])]
        assert counts[threshold] == int((labels[0] != labels[1]).sum())
    assert counts[0.5] != counts[0.9]


def test_each_build_climbs_to_its_own_rung(network):
    forms = {"c": {"hardware": "fake"}, "d": {"hardware": "integer"}, "e": {}, "f": {"digits": {"first": -1}}}
    made = variants_of(network, **forms)
    rows, _ = measured(network, made, count=1)
    levels = {
        name: "".join(row["level"] for row in rows if row["subject"] == name and row.get("factor") == "rung")
        for name in made
    }
    assert levels == {"c": "BC", "d": "BCD", "e": "BCDE", "f": "BCDEF"}


def test_ratios_are_formed_from_sums_over_images(network):
    made = variants_of(network, v={"bits": 6})
    rows, cases = measured(network, made)
    found = estimated(rows, cases, made)
    own = [row for row in rows if row.get("target") == "first" and row["case"]]
    for metric, column in (("sqnr", "noise"), ("sqnr_local", "local_noise")):
        quantity = found["v", metric, "first"]
        expected = 10 * np.log10(sum(row["signal"] for row in own) / sum(row[column] for row in own))
        assert quantity.function(quantity.values.sum(axis=0)) == pytest.approx(expected)
        assert (quantity.kind, quantity.weigh, quantity.unit) == ("statistic", "case", "dB")
    order = [key[2] for key in found if key[1] == "sqnr"]
    assert order == ["x.quantised", "first", "head"]


def test_what_is_fixed_stands_once_a_layer(network):
    made = variants_of(network, v={"digits": {"first": -1}})
    rows, _ = measured(network, made)
    (first,) = (row for row in rows if row.get("target") == "first" and not row["case"])
    assert (first["place"], first["operator"], first["digits_left_out"], first["chunks"]) == (1, "Conv2d", 1, 1)
    assert first["digits_most"] < first["digits_total"]
    assert len([row for row in rows if not row["case"]]) == 3
    assert all(row["bound"] is None for row in rows if row.get("target") == "x.quantised" and not row["case"])


def test_a_golden_model_that_rounds_otherwise_is_an_error_and_no_number(monkeypatch):
    network = seeded(nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 1)))
    context = builds.context(network, case_of(0), variants_of(network, v={}), Params())
    monkeypatch.setattr(integer, "half_up", lambda sums, shifts: sums >> shifts)
    with pytest.raises(NotGoldenError, match="^0: the digit-serial network differs from the golden model"):
        list(get_check(ID).measure(context, case_of(0)))


def test_a_build_that_fails_on_an_image_is_a_failed_row(network):
    made = variants_of(network, bad={}, good={})
    rows, cases = measured(network, made, lose="bad")
    failed = [row for row in rows if row.get("status") == "failed"]
    assert [(row["case"], row["subject"], row["reason"]) for row in failed] == [
        (case.id, "bad", "lost.") for case in cases
    ]
    found = estimated(rows, cases, made)
    assert found["bad", "sqnr"].missing == "no image gave an answer"
    assert found["good", "sqnr", "first"].missing == ""


def test_another_model_has_no_layers_to_compare(network):
    rows, cases = measured(network, {})
    found = estimated(rows, cases, ["onnx"], onnx={"source": {"onnx": "int8.onnx"}})
    assert {key[0] for key in found} == {"onnx"}
    assert all("a source of its own" in quantity.missing for quantity in found.values())


@pytest.mark.parametrize(
    ("given", "name"), [({"rung_flips": 0.0}, "rung_flips"), ({"rung_flips": 1.0}, "rung_flips"),
                        ({"layer_db": -1.0}, "layer_db")],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(given, name):
    with pytest.raises(UsageError, match=f"^equivalence.layers: {name}: this parameter is out of range"):
        Params(**given)
