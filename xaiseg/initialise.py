"""Writes a first model.yaml: guesses what model and data show, tries a few images, and marks each guess as a guess."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg import zoo
from xaiseg.drafts import Draft, draw
from xaiseg.errors import DataError, NothingToAudit, SubjectError, UsageError, XaisegError
from xaiseg.initialise_boxes import PROBED, Probe, draw_boxes, guess_detector, probe
from xaiseg.initialise_names import has_outlines
from xaiseg.initialise_source import guess_source, refuse_code
from xaiseg.initialise_torchvision import detects as torchvision_detects

if TYPE_CHECKING:
    from torch import Tensor

    from xaiseg.adapters import Network
    from xaiseg.data.case import Case, ImageSpec
    from xaiseg.data.entry import DataEntry
    from xaiseg.subject import Segmenter

#: Images that are read to guess, and images that the model is tried on.
LOOKED_AT: Final = 20
TRIED: Final = 4

#: Ways in which images are commonly normalised: (range, mean, std, what it is called).
_NORMALISATIONS: Final[tuple[tuple[list[float], Any, Any, str], ...]] = (
    ([0, 1], 0.0, 1.0, "values as they are"),
    ([0, 1], 0.5, 0.5, "-1 to 1"),
    ([0, 1], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], "ImageNet mean and deviation"),
    ([0, 255], 0.0, 1.0, "0 to 255"),
)


def initialise(
    model: str, data: Path, *, out: Path = Path("model.yaml"), trust: bool = False, force: bool = False
) -> list[str]:
    """Guesses, tries, writes model.yaml and a picture beside it.

    Returns:
        Lines to print: what was guessed, how the try went, what was written.

    Raises:
        UsageError: ``out`` exists and ``force`` is False, or :func:`guess` cannot go on.
    """
    if out.exists() and not force:
        raise UsageError("the file exists", where=out, then="Use --force to write over it")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = guess(model, data, folder=out.parent, trust=trust)
    picture = write(draft, out)
    lines = [f"{'.'.join(filter(None, keys))}: {why}" for keys, why in draft.guesses.items()]
    lines += [f"look at this: {warning}" for warning in draft.warnings]
    if draft.dice is not None:
        lines.append(f"tried {len(draft.tried)} images: mean Dice {draft.dice:.2f} against their references")
    if draft.agreement is not None:
        said = f"tried {len(draft.tried)} images: average precision {draft.agreement:.2f} against their labels"
        lines.append(f"{said}, whatever the class (blue in the picture: detected, yellow: labelled)")
    lines.append(f"wrote {out}" + (f" and {picture}" if picture else ""))
    return lines


def write(draft: Draft, out: Path) -> Path | None:
    """Writes the draft, and a picture of a prediction beside its reference when there is one; returns its path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(draft.text(), encoding="utf-8")
    model = draft.model()
    picture = out.with_suffix(".png")
    if model.task == "detection":
        threshold = model.output.threshold.value
        draw_boxes(*draft.tried[0], low_high=model.input.range, threshold=threshold).save(picture)
        return picture
    shown = [pair for pair in draft.tried if pair[0].reference is not None and (pair[0].reference > 0).any()]
    if not shown and not draft.tried:
        return None
    draw(*(shown or draft.tried)[0], low_high=model.input.range).save(picture)
    return picture


def guess(model: str, data: Path, *, folder: Path = Path(), trust: bool = False) -> Draft:
    """Guesses task, channels, range, size, classes and activation, and tries a few images.

    Args:
        model: a file (.onnx, .pt2, .pt, .pth, .ckpt, .safetensors, MegaDetector .json), a zoo name,
            ``smp:ARCH:ENCODER:WEIGHTS`` or ``torchvision:NAME:WEIGHTS``.
        data: a folder of images and masks or boxes, or a COCO file with its images beside it.
        folder: where model.yaml will stand.
        trust: allow formats that can execute code.

    Raises:
        UsageError: the source cannot be told from the model, or it needs ``trust``.
        NothingToAudit: no image can be read.
    """
    from xaiseg.data.readers import entry_from_folder

    source, why = guess_source(model, folder)
    if not trust:
        refuse_code(source, model, folder)
    entry = entry_from_folder(data)
    alone = (
        "no column 'cluster', 'group' or 'patient': images are assumed independent; name a column with cluster: in "
        "model.yaml"
    )
    values: dict[str, Any] = {"name": Path(source.get("weights") or model).stem, "task": "segmentation"}
    values |= {"classes": ["background", "foreground"], "source": source}
    values |= {"trust": True} if trust else {}
    values |= {"intended_use": ""}
    guesses = {("name", ""): "from the file's name", ("source", ""): why}
    guesses |= {
        ("data", key): said for key, said in _OF_THE_DATA.items() if key in entry.model_dump(exclude_defaults=True)
    }
    draft = Draft(values, guesses, entry, folder, warnings=() if entry.cluster else (alone,))
    answer = probe(draft) if any(kind in source for kind in PROBED) else None
    seen = None if isinstance(answer, str) else answer
    if _is_detector(draft, answer):
        return guess_detector(draft, seen)
    return _guess_segmenter(draft)


#: Why an entry of data: has a key that nobody wrote.
_OF_THE_DATA: Final = {
    "cluster": "the first column of a known name; images that share a value stand for one piece of evidence",
    "unnamed": "some images have no value there",
    "where": "augmented copies are no evidence of their own",
    "strata": "columns of known names; each group gets numbers of its own",
    "spacing_mm": "a column of that name",
}


def _is_detector(draft: Draft, seen: Probe | str | None) -> bool:
    """Whether model and data are about boxes.

    Raises:
        UsageError: one is about boxes and the other is not.
    """
    source, reader = draft.values["source"], draft.entry.reader
    detects = "ultralytics" in source or str(source.get("predictions", "")).endswith(".json")
    detects = detects or ("zoo" in source and zoo.card(source["zoo"]).task == "detection")
    detects = detects or ("torchvision" in source and torchvision_detects(source["torchvision"]))
    detects = detects or (isinstance(seen, Probe) and bool(seen.readings))
    if detects and reader not in ("coco", "yolo", "voc"):
        then = "A detector needs boxes: a COCO file, labels/*.txt (YOLO) or annotations/*.xml (Pascal VOC)"
        bare = reader == "folder" and not (Path(str(draft.entry.path)) / "masks").is_dir()
        what = "the model detects boxes and the data hold " + ("no labels that are known here" if bare else "masks")
        raise UsageError(what, where="--data", got=draft.entry.path if bare else reader, then=then)
    if not detects and (reader in ("yolo", "voc") or (reader == "coco" and not has_outlines(draft.entry))):
        kind = f"a source of kind {next(iter(source))}"
        got = f"an answer of the shape {seen.shape}" if isinstance(seen, Probe) else seen or kind
        then = "docs/models.md lists the layouts; finished boxes need source: {python: ...}"
        raise UsageError("the data hold boxes and the model is no detector that is known here", where="MODEL", got=got,
                         then=then)  # fmt: skip
    return detects


def _guess_segmenter(draft: Draft) -> Draft:
    labels = _labels(draft.entry)
    names = ["background", "foreground"] if labels <= 2 else ["background", *(f"class-{i}" for i in range(1, labels))]
    guesses = {
        ("task", ""): "the data hold masks",
        ("classes", ""): f"the masks hold {labels} values; write their real names",
    }
    draft = replace(draft, values={**draft.values, "classes": names}, guesses={**draft.guesses, **guesses})
    draft = _guess_input(draft)
    draft = _guess_output(draft)
    return _guess_normalisation(draft)


def _refs(entry: DataEntry, spec: ImageSpec) -> list[Any]:
    from xaiseg.data.readers import open_dataset

    return list(open_dataset("test", entry, root=Path(), spec=spec).cases)


def _labels(entry: DataEntry) -> int:
    """How many classes the first masks show; values 0 and 255 mean two."""
    from xaiseg.data.case import ImageSpec
    from xaiseg.data.readers import load_case

    many = ImageSpec(channels=1, classes=tuple(str(i) for i in range(255)))
    values: set[int] = set()
    for ref in _refs(entry, many)[:LOOKED_AT]:
        try:
            case = load_case(entry, ref, many)
        except DataError:
            continue  # it stands in the audit's Errors; other images tell as much
        if case.reference is not None:
            values |= set(np.unique(case.reference).tolist())
    return 2 if values <= {0, 1, 255} else max(values - {255}) + 1


def _cases(draft: Draft) -> list[Case]:
    """A few cases, those with the largest references first, so that there is something to see."""
    from xaiseg.data.readers import load_case

    spec = draft.model().image_spec()
    found: list[Case] = []
    for ref in _refs(draft.entry, spec)[:LOOKED_AT]:
        try:
            found.append(load_case(draft.entry, ref, spec))
        except DataError:
            continue  # it stands in the audit's Errors
    if not found:
        raise NothingToAudit("no image of the data can be read", where="--data")
    area = {case.id: 0 if case.reference is None else int((case.reference > 0).sum()) for case in found}
    return sorted(found, key=lambda case: -area[case.id])[:TRIED]


def _guess_input(draft: Draft) -> Draft:
    """Channels, size and padding: the first with which the model loads and answers."""
    problem = ""
    for channels in (1, 3):
        for multiple in (1, 32):
            trial = draft.with_values("input", "the model answers to it", channels=channels)
            if multiple > 1:
                trial = trial.with_values("input", "it answers to such sides only", multiple_of=multiple)
            try:
                network = _network(trial)
                _raw(trial, network)
            except (UsageError, SubjectError) as error:
                problem = str(error)
                continue
            return _guess_size(trial, network)
    raise UsageError("the model answers neither to 1 nor to 3 channels", where="MODEL", got=problem)


def _guess_size(draft: Draft, network: Network) -> Draft:
    if network.fixed_size is not None:
        return draft.with_values("input", "the graph takes no other", size=list(network.fixed_size), resize="pad")
    trained = _training_size(draft)
    if trained:
        return draft.with_values(
            "input", "the weights say that they were trained so", size=[trained, trained],
            resize=str(training_facts(draft).get("recipe", {}).get("resize", "pad")),
        )  # fmt: skip
    return draft.with_values("input", "the model answers to images of their own size", size=None)


def _training_size(draft: Draft) -> int | None:
    """The size that our own trainer wrote into a file of weights."""
    facts = training_facts(draft)
    return int(facts["recipe"]["size"]) if facts else None


def training_facts(draft: Draft) -> dict[str, Any]:
    """What our own trainer wrote into a file of weights; empty where there is nothing."""
    from xaiseg.loading import weights_path

    path = weights_path(draft.model())
    if path is None or path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        training = (file.metadata() or {}).get("training")
    return dict(json.loads(training)) if training else {}


def _network(draft: Draft) -> Network:
    from xaiseg.adapters import Network
    from xaiseg.loading import load_source

    network = load_source(draft.model())
    if not isinstance(network, Network):
        raise UsageError("init works for models, not for finished subjects", where="MODEL")
    return network


def _raw(draft: Draft, network: Network) -> Tensor:
    """What the network itself answers to one image, before any rule about outputs."""
    import torch

    from xaiseg.geometry import place, to_network
    from xaiseg.outputs import pick_tensor

    model = draft.model()
    image = torch.from_numpy(_cases(draft)[0].image)[None]
    size = model.input.size or network.fixed_size
    multiple = model.input.multiple_of or network.multiple_of
    placement = place((image.shape[-2], image.shape[-1]), size=size, multiple_of=multiple)
    batch = to_network(image, placement, fill=0.0).expand(network.fixed_batch or 1, -1, -1, -1)
    try:
        with torch.no_grad():
            return pick_tensor(network.call(batch))[:1]
    except XaisegError:
        raise
    except Exception as error:
        what = f"the model does not take a batch {tuple(batch.shape)}"
        raise SubjectError(what, got=str(error).split("\n")[0]) from error


def _guess_output(draft: Draft) -> Draft:
    raw = _raw(draft, _network(draft))
    channels = 1 if raw.ndim == 3 else int(raw.shape[1])
    classes = list(draft.values["classes"])
    whole = not raw.is_floating_point()
    low, high = float(raw.min()), float(raw.max())
    kind = "labels" if whole else "probabilities" if low >= 0 and high <= 1 else "logits"
    rests = f"the first answer holds {'whole numbers' if whole else f'values {low:.2g} to {high:.2g}'}"
    draft = draft.with_values("output", rests, kind=kind)
    if whole:
        return draft
    if channels == 1 and len(classes) == 2:
        activation, reason = "sigmoid", "one channel for two classes"
    elif channels == len(classes) - 1:
        activation, reason = "sigmoid", "as many channels as foreground classes"
    else:
        activation, reason = "softmax", "one channel a class"
    draft = draft.with_values("output", reason, activation=activation)
    if channels > len(classes):
        names = [*classes, *(f"class-{i}" for i in range(len(classes), channels))]
        note = f"the model answers with {channels} channels; write their real names"
        draft = replace(
            draft, values={**draft.values, "classes": names}, guesses={**draft.guesses, ("classes", ""): note}
        )
    return draft.with_values("output", "none was stated", threshold={"value": 0.5, "chosen_on": "default"})


def _guess_normalisation(draft: Draft) -> Draft:
    """Tries the common ways and keeps the one that agrees best with a few references."""
    channels = draft.values["input"]["channels"]
    best: Draft | None = None
    for value_range, mean, std, name in _NORMALISATIONS:
        if isinstance(mean, list) and channels != 3:
            continue
        rests = f"{name}; of the common ways it agrees best with {TRIED} references"
        trial = draft.with_values("input", rests, range=value_range, mean=mean, std=std)
        try:
            trial = _try(trial)
        except SubjectError as error:
            trial = replace(trial, dice=-1.0, warnings=(*trial.warnings, str(error)))
        if best is None or (trial.dice or 0.0) > (best.dice or 0.0):
            best = trial
    assert best is not None  # there is a way for every number of channels
    return replace(best, dice=None) if best.dice == -1.0 else best


def _try(draft: Draft) -> Draft:
    import torch

    from xaiseg.loading import load_subject

    subject: Segmenter = load_subject(draft.model())  # type: ignore[assignment]
    cases = _cases(draft)
    logits = subject.predict([torch.from_numpy(case.image) for case in cases], batch_size=1)
    tried = [(case, subject.decide(own)) for case, own in zip(cases, logits, strict=True)]
    scores = [_dice(prediction.labels, case.reference) for case, prediction in tried if case.reference is not None]
    defined = [score for score in scores if score is not None]
    constant = all(float(own[1:].max() - own[1:].min()) == 0 for own in logits)
    warnings = draft.warnings
    if constant:
        warnings += ("the model answers the same everywhere in the image",)
    if defined and max(defined) < 0.1:
        warnings += ("no prediction meets its reference; check classes, range, mean, std and output",)
    return replace(draft, tried=tried, dice=sum(defined) / len(defined) if defined else None, warnings=warnings)


def _dice(labels: np.ndarray, reference: np.ndarray) -> float | None:
    """Mean over the foreground classes that the reference shows; None when it shows none."""
    valid = reference != 255
    values = []
    for index in set(np.unique(reference[valid]).tolist()) - {0}:
        own, true = (labels == index) & valid, reference == index
        values.append(2 * float((own & true).sum()) / float(own.sum() + true.sum()))
    return sum(values) / len(values) if values else None
