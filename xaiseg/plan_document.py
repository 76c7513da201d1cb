"""The document that a plan writes: every fact that fixes a run, and the key that tells runs apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xaiseg import __version__
from xaiseg.protocol import Protocol
from xaiseg.run import SCHEMA, plain
from xaiseg.subject import Subject

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case, Dataset
    from xaiseg.data.entry import DataEntry
    from xaiseg.modelfile import ModelFile
    from xaiseg.plan import Options

#: On a CPU, pixels of one batch; U-Nets of common size then stay below about 2 GB of activations.
BATCH_PIXELS: Final = 2_000_000
MAX_BATCH: Final = 8
#: Columns that usually name the independent unit; where one repeats, independent images are not believed.
GROUPS: Final = (
    "cluster", "group", "patient", "patient_id", "subject", "case_id", "site", "flight", "camera", "volume",
)  # fmt: skip
PACKAGES: Final = ("torch", "torchvision", "numpy", "scipy", "scikit-image", "captum", "pyarrow", "pillow")


def plan_document(
    model: ModelFile,
    protocol: Protocol,
    options: Options,
    datasets: Mapping[str, Dataset],
    subject: Subject,
    checks: Sequence[Mapping[str, Any]],
    cases: pd.DataFrame,
    first: Case,
    device: str,
    variants: Mapping[str, Any],
) -> dict[str, Any]:
    from xaiseg.loading import weights_sha256

    weights, batch = weights_sha256(model), options.batch or _batch(first, device)
    key = _key(model, weights, options, datasets, checks)
    environment = _environment()
    facts = _facts(model, subject, datasets, options, environment, weights, protocol)
    return {
        "schema": SCHEMA,
        "key": key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": options.seed,
        "command": options.command,
        "model": _model_document(model, subject, weights),
        "protocol": protocol_document(protocol),
        "data_root": str(Path(model.data_root).resolve()),
        "entries": {name: entry.model_dump(mode="json") for name, entry in model.data.items()},
        "data": {name: _data_document(dataset, cases, model) for name, dataset in datasets.items()},
        "checks": list(checks),
        "variants": dict(variants),
        "batch": batch,
        "threads": options.threads,
        "device": device,
        "shards": int(cases["shard"].max()) + 1,
        "limit": options.limit,
        "assumptions": _assumptions(datasets["test"], model.data["test"], options),
        "environment": environment,
        "facts": facts | {"batch": batch},
    }


def _key(
    model: ModelFile,
    weights: str | None,
    options: Options,
    datasets: Mapping[str, Dataset],
    checks: Sequence[Mapping[str, Any]],
) -> str:
    """What tells runs apart: model, weights, data, parameters, seed and versions, but no bound."""
    measured = [{"id": item["id"], "params": item["params"], "sample": item["sample"]} for item in checks]
    lists = {name: dataset.list_sha256 for name, dataset in datasets.items()}
    contents = _content_digest(datasets["test"], model)
    said = [model.sha256, weights, lists, contents, measured, options.seed, options.limit]
    said += [_variant_digests(model)] if model.variants else []
    said += [f"empty_share {model.empty_share}"] if model.empty_share is not None else []
    return _digest([SCHEMA, __version__, *said])


def _variant_digests(model: ModelFile) -> list[Any]:
    """Digests of the files of other builds."""
    from xaiseg.loading import weights_sha256

    sources = [variant.source for variant in model.variants.values() if variant.source is not None]
    return [weights_sha256(dataclasses.replace(model, source=source)) for source in sources]


def _content_digest(dataset: Dataset, model: ModelFile) -> str:
    """Digest of what the audited files hold, how they are read, and the code that a source names by its file.

    Without it, masks that were mended or a builder that was edited would be answered by the rows of before.
    """
    from xaiseg.data.hashing import file_sha256

    named = [path for ref in dataset.cases for path in (ref.image, ref.reference, ref.reader2) if path]
    code = (model.source.torch or model.source.python or "").rpartition(":")[0]
    files = [Path(path) for path in dict.fromkeys(named)] + ([Path(model.path).parent / code] if code else [])
    held: list[Any] = [file_sha256(path) for path in files if path.is_file()]
    # What sidecars say of a case and no file of its own holds.
    held += [[ref.spacing_mm, dict(ref.survey)] for ref in dataset.cases if ref.spacing_mm or ref.survey]
    return _digest(
        [held, model.data[dataset.name].model_dump(mode="json", exclude={"path", "images", "masks", "meta"})]
    )


def _batch(first: Case, device: str) -> int:
    """Images a forward pass. On a CPU memory is bounded beforehand; a GPU that runs out of it halves the batch."""
    fits = BATCH_PIXELS // (first.shape[0] * first.shape[1])
    return max(1, min(MAX_BATCH, fits)) if device == "cpu" else 2 * MAX_BATCH


def _model_document(model: ModelFile, subject: Subject, weights: str | None) -> dict[str, Any]:
    from xaiseg.loading import source_sentence

    info = subject.info
    return {
        "name": model.name,
        "version": model.version,
        "task": model.task,
        "classes": list(info.classes),
        "path": str(Path(model.path).resolve()),
        "text": model.text,
        "sha256": model.sha256,
        "source_sentence": source_sentence(model),
        "weights_sha256": weights,
        "parameters": info.parameters,
        "offers": sorted(info.offers),
        "intended_use": model.intended_use,
        "threshold": plain(info.threshold),
        "trust": model.trust,
        "lesion_always_present": model.lesion_always_present,
        "readers_see_maps": model.readers_see_maps,
        "input": {"channels": info.channels, "range": list(info.value_range)},
    }


def protocol_document(protocol: Protocol) -> dict[str, Any]:
    """What run and report keep of a protocol."""
    names = ("name", "version", "as_of", "sha256", "source", "purpose", "use", "not_for", "cannot_tell", "resolved")
    return {name: plain(getattr(protocol, name)) for name in names} | {
        "decision": dataclasses.asdict(protocol.decision)
    }


def _data_document(dataset: Dataset, cases: pd.DataFrame, model: ModelFile) -> dict[str, Any]:
    """A data entry; of the test data only what ``--limit`` left counts as a case."""
    audited = dataset.name == "test"
    return {
        "n_cases": len(cases) if audited else len(dataset.cases),
        "n_listed": len(dataset.cases),
        "n_clusters": int(cases["cluster"].nunique()) if audited else dataset.n_clusters,
        "reader": dataset.reader,
        "cluster_column": model.data[dataset.name].cluster_name or dataset.cluster_column,
        "strata": list(dataset.strata),
        "list_sha256": dataset.list_sha256,
        "source": dataset.source,
        "generated": dataset.generated,
    }


def _facts(
    model: ModelFile,
    subject: Subject,
    datasets: Mapping[str, Dataset],
    options: Options,
    environment: Mapping[str, Any],
    weights: str | None,
    protocol: Protocol,
) -> dict[str, Any]:
    test = datasets["test"]
    return {
        "classes": list(subject.info.classes),
        "channels": subject.info.channels,
        "value_range": list(subject.info.value_range),
        "strata": list(test.strata),
        "generated": test.generated,
        "cluster_declared": test.cluster_column is not None,
        "cluster_column": model.data["test"].cluster_name or test.cluster_column,
        "unmatched": {"count": len(test.unmatched), "first": list(test.unmatched[:3])},
        "cluster_repeated": test.cluster_column is None and _has_groups(model),
        "has_train_list": "train" in datasets,
        "task_is_detection": model.task == "detection",
        "drawn_unevenly": any(
            len({float(ref.survey.get(name) or 0) for ref in test.cases}) > 1
            for name in ("probability", "draw_probability")
        ),
        "limit": options.limit,
        "threshold": subject.info.threshold.value,
        "threshold_chosen_on": subject.info.threshold.chosen_on,
        "protocol_sha256_at_plan": protocol.sha256,
        "provenance": _provenance(datasets, environment, weights, protocol, model),
        **model.facts(),
    }


def _has_groups(model: ModelFile) -> bool:
    """Whether the entry leaves out the clusters though its folder's table has a group column with repeated values."""
    from xaiseg.data.sidecar import read_sidecars, spelled

    entry = model.data["test"]
    base = Path(model.data_root) / (entry.path or ".")
    names = entry.sidecars or ("meta.csv",)
    places = [next((p for p in (base / n, Path(model.data_root) / n) if p.is_file()), None) for n in names]
    rows = list(read_sidecars([place for place in places if place is not None]).values())
    known = {column for row in rows for column in row}
    named = [own for name in GROUPS if (own := spelled(name, known))]
    columns = [[row[name] for row in rows if row.get(name)] for name in named]
    return entry.cluster is None and any(len(set(values)) < len(values) for values in columns)


def _provenance(
    datasets: Mapping[str, Dataset],
    environment: Mapping[str, Any],
    weights: str | None,
    protocol: Protocol,
    model: ModelFile,
) -> dict[str, str | None]:
    """Items that somebody needs to do the audit again; None where they are not known."""
    items: dict[str, str | None] = {f"{name} list sha256": dataset.list_sha256 for name, dataset in datasets.items()}
    items |= {"weights sha256": weights, "protocol sha256": protocol.sha256, "model file sha256": model.sha256}
    items |= {"model version": model.version or None, "intended use": model.intended_use or None}
    items["training data list"] = datasets["train"].list_sha256 if "train" in datasets else None
    return items | {name: str(value) for name, value in environment.items()}


def _assumptions(dataset: Dataset, entry: DataEntry, options: Options) -> list[str]:
    from xaiseg.data.sidecar import text

    said = []
    if dataset.cluster_column is None:
        said.append("Images are assumed independent: no column names their patient, site or flight.")
    unnamed = sum(ref.cluster == f"(no {dataset.cluster_column})" for ref in dataset.cases)
    if unnamed:
        said.append(f"Images whose {dataset.cluster_column} is blank ({unnamed}) are taken together as one.")
    if entry.where:
        kept = ", ".join(f"{column} = {text(value)}" for column, value in entry.where.items())
        lost = f", {dataset.filtered} are left out" if dataset.filtered else ""
        said.append(f"Of the images that are listed only those with {kept} are audited (`where:`){lost}.")
    if dataset.unmatched:
        count, first = len(dataset.unmatched), ", ".join(dataset.unmatched[:3])
        files = "1 file belongs to no case and was" if count == 1 else f"{count} files belong to no case and were"
        more = f" and {count - 3} more" if count > 3 else ""
        said.append(
            f"{files} not audited (an image that the annotations do not list, or annotations without an image): "
            f"{first}{more}."
        )
    if options.limit is not None:
        said.append(
            f"Only whole clusters drawn at random (seed {options.seed}) were audited, as many as make about "
            f"{options.limit} cases."
        )
    return said


def _environment() -> dict[str, Any]:
    known: dict[str, Any] = {"xaiseg": __version__, "python": platform.python_version(), "platform": sys.platform}
    known |= {"machine": platform.machine(), "processors": os.cpu_count()}
    for name in PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = None
    return known


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()
