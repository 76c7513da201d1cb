import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.checks import integer_builds as builds
from tests.checks.fake import disc, frame, make_case, quantities, tables
from tests.hardware.networks import seeded
from xaiseg.checks import digits_search
from xaiseg.checks.base import get_check
from xaiseg.checks.digits_quantities import RECOMMENDED
from xaiseg.checks.digits_search import Bench, Maps, calibration_refs
from xaiseg.checks.equivalence_digits import ID, Params
from xaiseg.data.case import CaseRef, Dataset
from xaiseg.errors import SubjectError, UsageError
from xaiseg.hardware.deployed import deploy
from xaiseg.modelfile_variants import VariantSpec

SHAPE = (16, 16)
FAST = Params(most=6, images=4, explained=2, cells=2, agreement=0.97, flips=0.02, explanation_loss=1.0)


def case_of(name, seed):
    """A bright disc of its own place and size, on noise."""
    rng = np.random.default_rng(seed)
    mask = disc(SHAPE, tuple(rng.uniform(5, 11, 2)), rng.uniform(2.5, 4.5))
    image = (0.3 * rng.random((1, *SHAPE)) + 0.6 * mask).astype(np.float32)
    return make_case(name, mask, image=image, cluster=name)


CALIBRATION = [case_of(f"v{n}", n) for n in range(6)]
AUDITED = [case_of(f"t{n}", 100 + n) for n in range(3)]


@pytest.fixture(scope="module")
def network():
    """Random layers behind a sum over the image, so that discs are found and every layer matters."""
    net = seeded(nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)
    ))  # fmt: skip
    for layer in (net[0], net[2]):
        layer.weight.data.abs_()
    net[4].weight.data.abs_()
    stacked = torch.stack([torch.as_tensor(case.image) for case in CALIBRATION])
    with torch.inference_mode():
        inside = net(stacked).flatten()
        net[4].bias.data -= inside.sort().values[int(0.85 * inside.numel())]
    return net


def variants_of(network, specs, *, entry="validation"):
    """Variants that share their integers, as model.yaml's do."""
    spec = VariantSpec(hardware="msdf")
    images = [torch.as_tensor(case.image) for case in CALIBRATION]
    held = builds.integers(network, images, spec)
    on = (entry, tuple(case.id for case in CALIBRATION))
    return {
        name: builds.build(network, held, VariantSpec(**{"hardware": "msdf", **given}), name=name, calibrated_on=on)
        for name, given in specs.items()
    }


def dataset():
    return Dataset("validation", "folder", tuple(case.ref for case in CALIBRATION), "patient", (), "", "x")


def context_of(network, case, variants, params=FAST, seen=None):
    """A context that notes every image that is loaded."""
    held = {case.id: case for case in CALIBRATION}

    def load(ref, entry):
        assert seen is not None
        seen.append((entry, ref.id))
        return held[ref.id]

    found = builds.context(network, case, variants, params)
    found.loader = load if seen is not None else lambda ref, entry: held[ref.id]
    found.listed = lambda entry: dataset().cases if entry == "validation" else ()
    return found


def measured(network, variants, params=FAST, cases=AUDITED):
    check = get_check(ID)
    once = check.measure_once(context_of(network, None, variants, params), {"validation": dataset()})
    rows = [{"case": "", **row} for row in once]
    for case in cases:
        rows += [{"case": case.id, **row} for row in check.measure(context_of(network, case, variants, params), case)]
    frame(ID, rows)
    return rows


def recommended(rows, name="v"):
    return {
        row["target"]: row["left_out"]
        for row in rows
        if row["subject"] == name and row.get("target") and row["left_out"] > 0
    }


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_what_is_recommended_keeps_the_budget_on_calibration_images(network):
    variants = variants_of(network, {"v": {}})
    rows = measured(network, variants)
    fewer = recommended(rows)
    assert fewer
    short = deploy(variants["v"].build.integers, fewer=fewer)
    (search,) = (row for row in rows if row.get("factor") == "search" and row["level"] == RECOMMENDED)
    alike, flips = [], []
    for name in search["images"]:
        (case,) = (case for case in CALIBRATION if case.id == name)
        x = torch.as_tensor(case.image)[None]
        with torch.inference_mode():
            first, second = (np.asarray(each(x)[0, 0] >= 0) for each in (network, short))
        alike.append(dice(first, second))
        flips.append((first != second).mean())
    assert search["agreement"] == pytest.approx(np.mean(alike))
    assert search["flip_share"] == pytest.approx(np.mean(flips))
    assert search["agreement"] >= FAST.agreement
    assert search["flip_share"] <= FAST.flips


def test_a_tighter_budget_leaves_out_less(network):
    variants = variants_of(network, {"v": {}})
    loose, tight = (
        sum(recommended(measured(network, variants, replace(FAST, agreement=share))).values()) for share in (0.9, 0.985)
    )
    assert tight < loose


def test_the_search_sees_calibration_images_alone(network):
    variants, seen = variants_of(network, {"v": {}}), []
    case = AUDITED[0]
    list(get_check(ID).measure(context_of(network, case, variants, seen=seen), case))
    assert seen == [("validation", name) for name in ("v0", "v2", "v3", "v5")]
    # Every case that follows, and the rows of the search, use the same plan.
    other = AUDITED[1]
    list(get_check(ID).measure(context_of(network, other, variants, seen=seen), other))
    list(get_check(ID).measure_once(context_of(network, None, variants, seen=seen), {"validation": dataset()}))
    assert len(seen) == 4


def test_digits_are_not_chosen_on_audited_images(network):
    variants = variants_of(network, {"v": {}}, entry="test")
    with pytest.raises(UsageError, match="digits must not be chosen on the images that are audited. Got: test"):
        list(get_check(ID).measure(context_of(network, AUDITED[0], variants), AUDITED[0]))


def test_calibration_images_that_are_gone_are_named(network):
    build = variants_of(network, {"v": {}})["v"].build
    with pytest.raises(UsageError, match=r"^data\.validation: the calibration images are not there"):
        calibration_refs(build, [CaseRef("other", "other")], 4)
    assert [ref.id for ref in calibration_refs(build, dataset().cases, 99)] == [case.id for case in CALIBRATION]


def test_figures_of_a_case_by_hand(network):
    variants = variants_of(network, {"v": {}})
    rows = measured(network, variants)
    build, case = variants["v"].build, AUDITED[1]
    x, truth = torch.as_tensor(case.image)[None], case.reference == 1
    with torch.inference_mode():
        before = network(x)[0, 0].double().numpy()
    levels = {str(count): count for count in range(FAST.most + 1)} | {RECOMMENDED: recommended(rows)}
    own = {row["level"]: row for row in rows if row["case"] == case.id}
    assert list(own) == list(levels)
    for level, fewer in levels.items():
        after = deploy(build.integers, fewer=fewer)(x)[0, 0].double().numpy()
        row = own[level]
        assert row["flips"] == ((before >= 0) != (after >= 0)).sum()
        assert row["pixels"] == truth.size
        assert row["agreement"] == pytest.approx(dice(before >= 0, after >= 0))
        assert row["dice"] == pytest.approx(dice(before >= 0, truth))
        assert row["dice_variant"] == pytest.approx(dice(after >= 0, truth))
        p = 1 / (1 + np.exp(-after))
        bins = np.minimum((15 * p).astype(int), 14)
        gaps = [abs(p[bins == b].sum() - truth[bins == b].sum()) for b in range(15)]
        assert row["ece_variant"] == pytest.approx(sum(gaps) / truth.size, abs=1e-4)


def test_the_curve_falls_in_digits_and_level_0_is_the_build_itself(network):
    variants = variants_of(network, {"v": {}})
    rows = measured(network, variants)
    held = tables({ID: rows}, AUDITED, variants={"v": {}})
    found = quantities(ID, held)
    emitted = [found["v", "digits", "", "fewer", str(count)].values[0] for count in range(FAST.most + 1)]
    assert all(later < earlier for earlier, later in itertools.pairwise(emitted))
    assert emitted[-1] < found["v", "digits", "", "fewer", RECOMMENDED].values[0] < emitted[0]
    first = context_of(network, AUDITED[0], variants)
    own = next(row for row in rows if row["case"] == AUDITED[0].id and row["level"] == "0")
    assert own["flips"] == (first.held.labels != first.others["v"].labels).sum()
    assert found["v", "flips", "", "fewer", "0"].values[0] == own["flips"] / own["pixels"]
    change = found["v", "dice_change", "", "fewer", "4"]
    last = [row for row in rows if row.get("level") == "4"]
    assert change.values.tolist() == pytest.approx([row["dice_variant"] - row["dice"] for row in last])


def test_layers_with_fewer_digits_are_facts(network):
    rows = measured(network, variants_of(network, {"v": {}}))
    found = quantities(ID, tables({ID: rows}, AUDITED, variants={"v": {}}))
    fewer = recommended(rows)
    assert {key[2]: value.values[0] for key, value in found.items() if key[1] == "fewer_digits"} == fewer
    assert found["v", "layers_with_fewer_digits"].values.tolist() == [len(fewer)]


def test_builds_that_differ_in_digits_alone_are_measured_once(network):
    specs = {"fake": {"hardware": "fake"}, "full": {}, "short": {"digits": -2}, "other": {"arithmetic": "merged"}}
    rows = measured(network, variants_of(network, specs), cases=AUDITED[:1])
    assert {row["subject"] for row in rows} == {"full", "other"}


def test_a_build_that_leaves_digits_out_is_searched_from_all_of_them(network):
    both = [measured(network, variants_of(network, {"v": given}), cases=()) for given in ({}, {"digits": -2})]
    layers = [[(row["target"], row["left_out"], row["emitted"]) for row in rows if row.get("target")] for rows in both]
    assert layers[0] == layers[1] != []


def test_a_reference_without_lesion(network):
    """Where the model and the build draw nothing there is no Dice; an outline on it is Dice 0."""
    variants = variants_of(network, {"v": {}})
    blank = np.zeros((1, *SHAPE), np.float32)
    empty = make_case("e", np.zeros(SHAPE), image=blank)
    rows = measured(network, variants, cases=[empty])
    assert {(row.get("dice"), row.get("agreement")) for row in rows if row["case"]} == {(None, None)}
    bright = make_case("b", np.zeros(SHAPE), image=AUDITED[0].image)
    rows = measured(network, variants, cases=[bright])
    assert next(row for row in rows if row["case"])["dice"] == 0.0


def test_pixels_that_readers_left_open_are_not_counted(network):
    variants = variants_of(network, {"v": {}})
    case = AUDITED[0]
    reference = case.reference.copy()
    reference[:8] = 255
    row = next(
        row for row in measured(network, variants, cases=[make_case("t", reference, image=case.image)]) if row["case"]
    )
    assert row["pixels"] == 8 * 16


def test_occlusion_maps_by_hand():
    """A network that reads each pixel alone: hiding a cell changes the region's mean logit by what the cell held."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1, bias=False)).eval()
    network[0].weight.data.fill_(10.0)
    network[0].bias.data.fill_(-5.0)
    network[1].weight.data.fill_(1.0)
    variant = builds.build(
        network, builds.integers(network, [torch.rand(1, 4, 4)], VariantSpec(hardware="msdf")), VariantSpec(bits=8)
    )
    image = np.linspace(0, 0.9, 16, dtype=np.float32).reshape(1, 4, 4)
    case = make_case("a", np.zeros((4, 4)), image=image)
    bench = Bench.of(variant.build, variant.subject, [make_case("dark", np.zeros((4, 4))), case])
    maps = Maps.of(bench, FAST)
    region = image[0] >= 0.5
    expected = []
    for row, column in itertools.product((0, 2), (0, 2)):
        part = np.zeros((4, 4), bool)
        part[row : row + 2, column : column + 2] = True
        expected.append((10 * (image[0] - image.mean()) * (part & region)).sum() / region.sum())
    assert len(maps.wanted) == 1  # nothing is outlined in the dark image
    assert maps.wanted[0] == pytest.approx(np.array(expected), abs=1e-5)
    assert maps.similarity(network) == pytest.approx(1.0)
    assert maps.similarity(lambda x: -network(x)) == pytest.approx(-1.0)
    assert maps.similarity(lambda x: 0 * network(x)) == 0.0


def test_states_that_change_the_explanation_are_taken_back(network, monkeypatch):
    """Every digit that is left out costs 0.03 here; both layers of the network can leave out six."""
    monkeypatch.setattr(digits_search.Maps, "similarity", lambda self, held: 0.9 - 0.03 * sum(held.fewer.values()))
    loose = replace(FAST, agreement=0.0, flips=1.0, blocks=2)
    for loss, kept in ((0.01, 0), (0.1, 3), (0.2, 6), (1.0, 12)):
        rows = measured(network, variants_of(network, {"v": {}}), replace(loose, explanation_loss=loss), cases=())
        assert sum(recommended(rows).values()) == kept
        (search,) = (row for row in rows if row.get("factor") == "search" and row["level"] == RECOMMENDED)
        assert search["stepped_back"] == 12 - kept
        assert search["explanation"] == pytest.approx(0.9 - 0.03 * kept)


def test_without_images_to_explain_there_is_no_such_budget(network):
    rows = measured(
        network, variants_of(network, {"v": {}}), replace(FAST, explained=0, explanation_loss=0.0), cases=()
    )
    (search,) = (row for row in rows if row.get("factor") == "search" and row["level"] == RECOMMENDED)
    assert (search["explanation"], search["stepped_back"]) == (None, 0)
    assert recommended(rows)


def test_a_build_that_fails_on_an_image_is_a_failed_row(network):
    variants = variants_of(network, {"v": {}})
    context = context_of(network, AUDITED[0], variants)
    context.others["v"] = SubjectError("lost.")
    rows = list(get_check(ID).measure(context, AUDITED[0]))
    assert rows == [{"subject": "v", "status": "failed", "reason": "lost."}]
    found = quantities(ID, tables({ID: [{"case": "t0", **rows[0]}]}, AUDITED, variants={"v": {}}))
    assert found["v", "dice_change"].missing == "no image gave an answer"


def test_without_digit_serial_units_nothing_is_measured(network):
    rows = measured(network, variants_of(network, {"v": {"hardware": "integer"}}))
    assert rows == []
    found = quantities(ID, tables({ID: rows}, AUDITED, variants={"v": {}}))
    assert found["dice_change",].missing.startswith("no variant runs on digit-serial units")


@pytest.mark.parametrize(
    ("name", "value"),
    [("most", 0), ("images", 0), ("explained", -1), ("cells", 1), ("trials", 0), ("agreement", 1.1), ("flips", -0.1),
     ("explanation_loss", 2.0), ("bins", 1), ("blocks", 0)],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(name, value):
    with pytest.raises(UsageError, match=f"^equivalence.digits: {name}: this parameter is out of range"):
        Params(**{name: value})
