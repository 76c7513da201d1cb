"""The statistics of benchmarks/claims: known answers, and how often its intervals hold."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from benchmarks.claims import store
from benchmarks.claims.contrasts import contrast, ece_contrast, patient_means
from benchmarks.claims.measure import divide, fit_temperature, row
from benchmarks.claims.plan import ARMS, FOLDS, ORDER, Run, best_rate, chosen, pending, total, trials
from benchmarks.claims.report import report
from xaiseg.data.case import Case, CaseRef


def table(values):
    """Rows by seed and patient from an array (seeds, patients)."""
    return {s: {f"p{i:03d}": float(v) for i, v in enumerate(row)} for s, row in enumerate(values)}


def test_one_seed_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.75, 0.1, (1, 60)), rng.normal(0.72, 0.1, (1, 60))
    found = contrast(table(a), table(b))
    expected = stats.ttest_rel(a[0], b[0])
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval() == pytest.approx(expected.confidence_interval(0.95), rel=1e-9)
    assert (found.patients, found.seeds, found.seed_sd) == (60, 1, None)


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(1)
    base = rng.normal(0, 0.05, (1, 80))
    same, apart = np.repeat(base, 3, axis=0), base + np.array([[-0.04], [0.0], [0.04]])
    zero = table(np.zeros((3, 80)))
    narrow, wide = contrast(table(same), zero), contrast(table(apart), zero)
    assert narrow.estimate == pytest.approx(wide.estimate)
    assert wide.se == pytest.approx(np.hypot(narrow.se, 0.04 / np.sqrt(3)))
    assert wide.df < narrow.df
    borrowed = contrast(table(base), zero, seed_sd=0.04)
    assert borrowed.se == pytest.approx(np.hypot(narrow.se, 0.04))


def test_intervals_hold_over_patients_and_seeds():
    rng = np.random.default_rng(2)
    hits, runs = 0, 400
    for _ in range(runs):
        patients, seeds = rng.normal(0, 0.15, 70), rng.normal(0, 0.01, 3)
        d = 0.03 + patients + seeds[:, None] + rng.normal(0, 0.05, (3, 70))
        low, high = contrast(table(d), table(np.zeros((3, 70)))).interval()
        hits += low <= 0.03 <= high
    assert hits / runs >= 0.93


def test_reading_a_contrast():
    rng = np.random.default_rng(3)
    zero = table(np.zeros((3, 100)))
    for shift, sd, expected in (
        (0.05, 0.02, "better"),
        (-0.05, 0.02, "worse"),
        (0.0, 0.02, "equivalent within 0.02"),
        (0.0, 0.4, "undecided"),
    ):
        noise = rng.normal(0, sd, (3, 100))
        found = contrast(table(shift + noise - noise.mean(axis=1, keepdims=True)), zero)
        assert found.reads() == expected
    assert found.detectable > 0.05
    assert (
        contrast(table(np.full((3, 9), 0.05) + rng.normal(0, 0.001, (3, 9))), table(np.zeros((3, 9)))).reads(
            significant=False
        )
        == "undecided"
    )


def test_a_difference_in_ece_over_patients():
    rng = np.random.default_rng(4)

    def arm(gap):
        held = {}
        for patient in range(40):
            count = rng.integers(500, 1500, 15).astype(float)
            p = (np.arange(15) + 0.5) / 15
            y = rng.binomial(count.astype(int), np.clip(p - gap, 0, 1))
            held[f"p{patient}"] = np.stack([count, count * p, y.astype(float)])
        return {0: held}

    off, honest = arm(0.1), arm(0.0)
    found = ece_contrast(honest, off)
    assert found.estimate == pytest.approx(-0.09, abs=0.02)
    assert found.interval()[1] < 0
    nothing = ece_contrast(off, off)
    assert nothing.estimate == 0.0


def test_images_are_averaged_within_a_patient():
    rows = [{"cluster": "a", "dice": 0.0}, {"cluster": "a", "dice": 1.0}, {"cluster": "b", "dice": 0.8}]
    assert patient_means(rows, "dice") == {"a": 0.5, "b": 0.8}


def cases(count):
    for index in range(count):
        yield Case(CaseRef(f"i{index}", "", cluster=f"p{index // 2}"), np.zeros((1, 4, 4), np.float32))


def test_folds_share_no_patient_and_cover_everyone():
    everything = tuple(cases(100))
    tested = []
    for fold in range(FOLDS):
        parts = divide(everything, "ultrasound", fold)
        groups = [{case.ref.cluster for case in part} for part in (parts.train, parts.validation, parts.test)]
        assert sum(len(group) for group in groups) == len(set.union(*groups)) == 50
        assert all(groups)
        tested += [case.id for case in parts.test]
    assert sorted(tested) == sorted(case.id for case in everything)


def test_every_run_is_named_once_and_the_plan_ends():
    scores = {}
    for _ in range(200):
        run = next(pending(scores), None)
        if run is None:
            break
        assert run.name not in scores
        scores[run.name] = 1.0 if run.rate == 3e-3 else 0.5
    assert len(scores) == total()
    assert best_rate("unet", scores) == 3e-3
    assert {run.rate for run in chosen(scores)} == {3e-3, None}
    primary = [
        run for run in chosen(scores) if run.data == "ultrasound" and run.arm in ("radiomicnet", "unet", "no_rag")
    ]
    assert len(primary) == 27
    assert best_rate("unet", {run.name: 0.0 for run in trials("unet")[:2]}) is None


def test_a_row_counts_pixels():
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    logits = np.full((4, 4), -3.0)
    logits[0] = logits[3] = 3.0
    found = row(Case(CaseRef("a", "", cluster="p"), np.zeros((1, 4, 4), np.float32)), logits, mask, 2.0)
    assert (found["dice"], found["iou"], found["precision"], found["recall"], found["specificity"]) == (
        0.5, 4 / 12, 0.5, 0.5, 0.5,
    )  # fmt: skip
    assert found["raw_count"].sum() == found["scaled_count"].sum() == 16
    assert found["scaled_sum_p"].sum() == pytest.approx(8 / (1 + np.exp(-1.5)) + 8 / (1 + np.exp(1.5)))


def test_the_temperature_is_found():
    rng = np.random.default_rng(5)
    z = rng.normal(0, 2, 40_000)
    y = rng.random(40_000) < 1 / (1 + np.exp(-z / 3.0))
    assert fit_temperature([(z[None], y[None])]) == pytest.approx(3.0, rel=0.05)


def test_stored_runs_make_a_report(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROWS", tmp_path / "rows.parquet")
    monkeypatch.setattr(store, "FACTS", tmp_path / "facts.json")
    rng = np.random.default_rng(6)
    sources = {ARMS[arm].rate_of for _, arms, _, _ in ORDER for arm in arms} - {None}
    facts = [trial for source in sorted(sources) for trial in trials(source)]
    wanted = {run.name: run for run in facts}
    wanted |= {
        run.name: run
        for run in (
            Run("ultrasound", arm, f, s, 9e-3) for arm in ("unet", "no_rag") for f in range(3) for s in range(3)
        )
    }
    wanted |= {
        run.name: run for run in (Run("ultrasound", "radiomicnet", f, s, 9e-3) for f in range(3) for s in range(3))
    }
    wanted |= {run.name: run for run in (Run("ultrasound", "no_consistency", f, 0, 9e-3) for f in range(3))}
    for run in wanted.values():
        rows = []
        for index in range(6):
            value = 0.7 + 0.1 * (run.arm == "radiomicnet") + rng.normal(0, 0.02)
            held = {"id": f"{run.fold}-{index}", "cluster": f"{run.fold}-{index}"}
            held |= dict.fromkeys(("dice", "iou", "precision", "recall", "specificity"), value)
            for name in ("raw", "scaled"):
                held |= {
                    f"{name}_count": [100] * 15,
                    f"{name}_sum_p": [50.0] * 15,
                    f"{name}_sum_y": rng.integers(40, 60, 15),
                }
            rows.append(held)
        store.add({"run": run.name, "selection": run.rate or 0.0, "parameters": 1_000_000}, rows)
    results = store.load()
    assert isinstance(results.rows, pa.Table)
    text = report(results)
    line = next(line for line in text.splitlines() if line.startswith("| radiomicnet − unet"))
    assert "| better |" in line
    assert "primary" in line
    assert "| both |" in text
    assert "**polyps**" not in text  # none was run
