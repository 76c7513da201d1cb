"""A run directory made of synthetic numbers: real schemas, the real estimate and judge stages, no model.

Hostile on purpose: one case id is a script tag, one is a spreadsheet formula, two images failed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from xaiseg.checks.base import get_check
from xaiseg.data.case import Case, CaseRef
from xaiseg.estimate import estimate_run
from xaiseg.evidence import gallery_arrays
from xaiseg.judge import judge
from xaiseg.plan_document import protocol_document
from xaiseg.protocol import Protocol, load_protocol
from xaiseg.run import ERRORS, SCHEMA, EvidenceItem, RunDirectory, plain
from xaiseg.subject import Prediction

SCRIPT = "<script>alert(1)</script>"
FORMULA = "=HYPERLINK(1)"
STRATA = ("device", "density")
BASELINES = ("random", "centre-prior", "edge-prior", "predicted-mask", "distance-to-mask")
METHODS = ("hirescam", "integrated-gradients", "occlusion")
KEY = {"object": "", "subject": "reference", "target": "", "factor": "", "level": "", "status": "ok", "reason": ""}


def fake_run(
    folder: Path,
    *,
    protocol: str = "clinical",
    patients: int = 90,
    quality: float = 0.0,
    crashed: dict[str, str] | None = None,
    seed: int = 1,
) -> RunDirectory:
    """Writes a judged run.

    Args:
        folder: the run directory.
        protocol: name or path of a protocol.
        patients: a quarter of them are lesion-free.
        quality: added to every Dice.
        crashed: check -> message, as if the check had crashed.
        seed: of all numbers.
    """
    rng = np.random.default_rng(seed)
    resolved = load_protocol(protocol)
    run = RunDirectory(folder)
    cases = _cases(rng, patients, resolved)
    run.write_json("plan.json", _plan(resolved, cases))
    run.write_cases(pa.Table.from_pandas(cases, preserve_index=False))
    failed = list(cases["case"][:2])
    for check, rows in _rows(rng, cases, quality).items():
        if check in resolved.checks:
            _write(run, check, rows, failed)
    run.write_table(ERRORS, 0, _errors(failed, crashed or {}))
    run.write_evidence(0, _evidence(rng, cases))
    conclude(run, resolved, crashed or {})
    return run


def conclude(run: RunDirectory, protocol: Protocol, crashed: dict[str, str]) -> None:
    """Estimates and judges, as the pipeline does."""
    plan = run.plan()
    estimates, found = estimate_run(run, protocol, skip=dict.fromkeys(crashed, "crashed"))
    facts = {**plan["facts"], "looks_taken": 1, "n_clusters": plan["data"]["test"]["n_clusters"]}
    findings, overall = judge(protocol, estimates, facts=facts, crashed=found | crashed, not_run={})
    run.save_estimates(estimates)
    run.save_findings(findings, overall)
    run.write_json("judged.json", protocol_document(protocol) | {"looks_taken": 1})


def _cases(rng: np.random.Generator, patients: int, protocol: Protocol) -> pd.DataFrame:
    rows = []
    for patient in range(patients):
        device, density = "ABCD"[int(rng.choice(4, p=[0.45, 0.3, 0.2, 0.05]))], str(rng.integers(1, 5))
        for image in range(int(rng.integers(1, 3))):
            rows.append((f"p{patient:03d}-{image}", f"p{patient:03d}", device, density))
    table = pd.DataFrame(rows, columns=["case", "cluster", *STRATA])
    table.loc[0, "case"], table.loc[1, "case"], table.loc[2, "case"] = FORMULA, "lost", SCRIPT
    table["shard"] = 0
    for check in protocol.checks:
        table[f"p:{check}"] = 1.0
    return table


def _free(case: str, cluster: str) -> bool:
    return int(cluster[1:]) % 4 == 3


def _write(run: RunDirectory, check: str, rows: list[dict], failed: list[str]) -> None:
    schema = get_check(check).schema
    lost = [
        {**KEY, "case": case, "status": "failed", "reason": f"{case}.png: the file is cut short"} for case in failed
    ]
    held = [{**KEY, **row} for row in rows if row.get("case") not in failed]
    run.write_table(check, 0, pa.Table.from_pylist(held + (lost if check != "provenance" else []), schema=schema))


def _rows(rng: np.random.Generator, cases: pd.DataFrame, quality: float) -> dict[str, list[dict]]:
    rows: dict[str, list[dict]] = {name: [] for name in (
        "performance.segmentation", "calibration.pixels", "explanation", "robustness.degradation", "data.integrity",
    )}  # fmt: skip
    for case, cluster, device in cases[["case", "cluster", "device"]].itertuples(index=False):
        free = _free(case, cluster)
        dice = float(np.clip(rng.beta(9, 1.8) + quality - (0.08 if device == "D" else 0), 0.01, 0.98))
        missed = not free and rng.random() < 0.05
        dice = 0.02 if missed else dice
        rows["performance.segmentation"] += _performance(rng, case, free, dice, missed)
        rows["calibration.pixels"].append({"case": case, "target": "lesion", **_histograms(rng, free)})
        if not free and rng.random() < 0.5:
            rows["explanation"] += _explanations(rng, case)
        rows["robustness.degradation"] += _ladder(rng, case, free, dice)
        rows["data.integrity"].append(_integrity(rng, case, cluster, free))
    rows["provenance"] = [
        {"case": "", "item": "weights sha256", "value": "8c0e" * 16},
        {"case": "", "item": "torch", "value": "2.9.0"},
        {"case": "", "item": "model version", "value": None},
    ]
    rows["data.integrity"] += [{"case": "", "entry": "train", "name": "t1", "cluster": "t1", "pixel_sha256": "t"}]
    return rows


def _performance(rng: np.random.Generator, case: str, free: bool, dice: float, missed: bool) -> list[dict]:
    alarm = free and rng.random() < 0.04
    area = int(rng.lognormal(6.2, 0.7))
    row = {"case": case, "target": "lesion", "diagonal": 227.0, "n_reference": 0 if free else 1, "n_false": int(alarm)}
    if free:
        row |= {"presence": "prediction_only" if alarm else "neither", "dice": 0.0 if alarm else None}
        row |= {"n_prediction": int(alarm), "n_found": 0, "area_reference": 0, "area_prediction": 300 * alarm}
        return [row | ({"nsd": 0.0, "hd95": 227.0, "iou": 0.0} if alarm else {})]
    iou = dice / (2 - dice)
    row |= {"presence": "both", "dice": dice, "iou": iou, "nsd": min(1.0, dice + 0.02), "hd95": 40 * (1.05 - dice)}
    bias = float(rng.normal(0.03, 0.2))
    row |= {"area_reference": area, "area_prediction": int(area * (1 + bias)), "area_bias": bias}
    row |= {"n_prediction": 1, "n_found": 0 if missed else 1}
    return [row, {"case": case, "target": "lesion", "object": "lesion-1", "area": area, "found": not missed,
                  "best_iou": iou}]  # fmt: skip


def _histograms(rng: np.random.Generator, free: bool) -> dict:
    centres = (np.arange(15) + 0.5) / 15
    row: dict = {"brier": float(rng.uniform(0.01, 0.04)), "nll": float(rng.uniform(0.05, 0.2)), "clipped": 3}
    for prefix, sizes in (("", [21000] + [120] * 13 + [1500]), ("region_", [900] + [90] * 13 + [1400])):
        if free and prefix:
            continue
        count = np.array(sizes) + rng.integers(0, 60, 15)
        mean = np.clip(centres + rng.normal(0, 0.005, 15), 0.001, 0.999)
        rate = np.clip(mean - 0.12 * mean * (1 - mean) * 2 + rng.normal(0, 0.06, 15), 0, 1)
        total_y = np.round(rate * count)
        gap = np.abs(mean * count - total_y).sum() / count.sum()
        row |= {f"{prefix}ece": float(gap), f"{prefix}signed_gap": float((mean * count - total_y).sum() / count.sum())}
        row |= {f"{prefix}pixels": int(count.sum()), f"{prefix}count": count.tolist()}
        row |= {f"{prefix}sum_p": (mean * count).tolist(), f"{prefix}sum_y": total_y.astype(int).tolist()}
    return row


def _explanations(rng: np.random.Generator, case: str) -> list[dict]:
    rows = []
    best = 0.4 + float(rng.normal(0, 0.05))
    for number, method in enumerate(METHODS):
        gain = float(rng.normal((0.04, 0.0, -0.03)[number], 0.08))
        rows.append({
            "case": case, "target": method, "class_name": "lesion", "deletion_object": best + gain,
            "deletion_context": best / 2 + gain / 2, "excess_object": gain, "excess_context": gain / 2,
            "best_object": "predicted-mask", "best_context": "distance-to-mask", "energy_in_region": 0.6,
            "energy_outside": 0.4, "context_share": 0.2, "randomisation_similarity": float(rng.uniform(-0.1, 0.6)),
            "randomisation_similarity_outside": float(rng.uniform(-0.2, 0.6)),
        })  # fmt: skip
    rows += [
        {"case": case, "target": f"baseline:{name}", "deletion_object": best - 0.05 * number,
         "deletion_context": best / 2 - 0.02 * number}
        for number, name in enumerate(BASELINES)
    ]  # fmt: skip
    return rows


def _ladder(rng: np.random.Generator, case: str, free: bool, dice: float) -> list[dict]:
    rows = []
    ladder = {"blur_px": (1, 2), "noise_sd": (0.02, 0.06), "gain": (0.85, 0.6), "jpeg_quality": (60, 25),
              "downscale": (0.7, 0.45)}  # fmt: skip
    for number, (factor, levels) in enumerate(ladder.items()):
        for severity, level in zip(("mild", "strong"), levels, strict=True):
            drop = float(rng.normal((0.01, 0.05)[severity == "strong"] * (1 + number * 0.7), 0.06))
            row = {"case": case, "factor": factor, "level": f"{level:g}", "severity": severity}
            if free:
                row |= {"n_reference": 0, "n_missed": 0, "false_alarm": False, "false_alarm_clean": False}
            else:
                left = float(np.clip(dice - drop, 0, 1))
                row |= {"dice": left, "dice_clean": dice, "dice_drop": dice - left, "n_reference": 1, "n_missed": 0}
            rows.append(row)
    return rows


def _integrity(rng: np.random.Generator, case: str, cluster: str, free: bool) -> dict:
    digest = f"{int(rng.integers(0, 2**62)):016x}"
    return {"case": case, "entry": "test", "name": case, "cluster": cluster, "pixel_sha256": digest, "dhash": digest,
            "constant": False, "empty_reference": free, "labels": [0] if free else [0, 1]}  # fmt: skip


def _errors(failed: list[str], crashed: dict[str, str]) -> pa.Table:
    rows = [{"case": case, "check": "", "kind": "failed", "reason": f"{case}.png: the file is cut short",
             "traceback": ""} for case in failed]  # fmt: skip
    rows += [{"case": "", "check": check, "kind": "crashed", "reason": why, "traceback": 'File "check.py", line 1'}
             for check, why in crashed.items()]  # fmt: skip
    return pa.Table.from_pylist(rows)


def _evidence(rng: np.random.Generator, cases: pd.DataFrame) -> list[EvidenceItem]:
    items = []
    for number, (case, cluster) in enumerate(cases[["case", "cluster"]].iloc[2:24].itertuples(index=False)):
        image, reference, prediction, heat = _picture(rng, _free(case, cluster))
        held = Case(CaseRef(case, ""), image[None], reference)
        maps = {name: heat * scale for name, scale in zip(METHODS, (1.0, 0.3, -0.5), strict=True)}
        arrays = gallery_arrays(held, Prediction(prediction), maps, (0.0, 1.0))
        scores = {"performance.segmentation": number / 30, "explanation": -number / 30}
        items.append(EvidenceItem(case, (), scores, int(rng.integers(0, 2**62)), arrays))
    return items


def _picture(rng: np.random.Generator, free: bool) -> tuple[np.ndarray, ...]:
    """Speckle with a dark ellipse, its mask, a shifted mask and a signed map."""
    rows, columns = np.mgrid[:144, :176]
    y, x, a, b = rng.uniform(50, 90), rng.uniform(60, 110), rng.uniform(12, 30), rng.uniform(16, 40)
    distance = ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2
    reference = np.zeros((144, 176), bool) if free else distance <= 1
    moved = ((rows - y - 4) / a) ** 2 + ((columns - x + 5) / (b * 0.9)) ** 2 <= 1
    image = rng.rayleigh(0.25, (144, 176)) * np.where(reference, 0.35, 1.0)
    heat = np.exp(-distance) - 0.4 * np.exp(-(((rows - 20) / 18) ** 2) - ((columns - 150) / 22) ** 2)
    return (
        np.clip(image, 0, 1).astype(np.float32),
        reference.astype(np.uint8),
        (np.zeros_like(moved) if free else moved).astype(np.uint8),
        heat.astype(np.float32),
    )


def _plan(protocol: Protocol, cases: pd.DataFrame) -> dict:
    clusters = int(cases["cluster"].nunique())
    data = {"reader": "folder", "cluster_column": "patient_id", "strata": list(STRATA), "source": "phantoms",
            "generated": True}  # fmt: skip
    environment = {"xaiseg": "0.1.0", "python": "3.11.9", "platform": "linux", "torch": "2.9.0", "numpy": "2.1.0"}
    return {
        "schema": SCHEMA, "key": "0f" * 32, "created": "2026-11-24T09:30:00+00:00", "seed": 7,
        "command": "xaiseg audit examples/clinical/model.yaml --protocol clinical",
        "model": {
            "name": "unet-compact breast", "version": "1.0", "task": "segmentation",
            "classes": ["background", "lesion"],
            "path": "/home/somebody/model.yaml", "text": "name: x", "sha256": "ab" * 32,
            "source_sentence": "Zoo model unet-compact, weights unet-compact-phantom.safetensors; no code of the "
            "user's was executed.",
            "weights_sha256": "8c0e" * 16, "parameters": 123456, "offers": ["forward"],
            "intended_use": "Outlining lesions on generated breast-ultrasound phantoms",
            "threshold": {"value": 0.5, "chosen_on": "val"}, "trust": False, "lesion_always_present": False,
            "readers_see_maps": False, "input": {"channels": 1, "range": [0.0, 1.0]},
        },
        "protocol": protocol_document(protocol),
        "data_root": "/home/somebody", "entries": {},
        "data": {
            "test": {**data, "n_cases": len(cases), "n_listed": len(cases), "n_clusters": clusters,
                     "list_sha256": "aa" * 32},
            "train": {**data, "n_cases": 900, "n_listed": 900, "n_clusters": 700, "list_sha256": "bb" * 32},
        },
        "checks": [
            {"id": name, "params": plain(item.params), "runs": True, "reason": "", "cases": "all",
             "sample": item.sample}
            for name, item in protocol.checks.items()
        ],
        "batch": 8, "threads": 1, "device": "cpu", "shards": 1, "limit": None,
        "assumptions": ["Lesions of one patient are independent given the patient."],
        "environment": environment,
        "facts": {
            "classes": ["background", "lesion"], "channels": 1, "value_range": [0.0, 1.0], "strata": list(STRATA),
            "generated": True, "cluster_declared": True, "cluster_column": "patient_id", "has_train_list": True,
            "limit": None, "threshold_chosen_on": "val", "protocol_sha256_at_plan": protocol.sha256,
            "lesion_always_present": False, "readers_see_maps": False, "provenance": environment,
        },
    }  # fmt: skip
