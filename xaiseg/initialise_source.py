"""Which source a model file is: told from its ending and from what it holds, without running any of it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xaiseg import zoo
from xaiseg.drafts import relative
from xaiseg.errors import UsageError, did_you_mean
from xaiseg.weights import fit_weights, is_pickle, is_torchscript, loads_without_code, read_weights

if TYPE_CHECKING:
    from torch import Tensor

#: Modules that a pickle of a detector names, and what the file then is.
_PICKLES: Final = ((b"ultralytics", "ultralytics"), (b"models.yolo", "yolov5"))


def guess_source(model: str, folder: Path) -> tuple[dict[str, Any], str]:
    kind, _, rest = model.partition(":")
    if kind in ("smp", "torchvision") and rest:
        return _named_source(kind, rest, folder)
    if model in zoo.list_models():
        shipped = zoo.card(model).weights
        if not shipped:
            raise UsageError("this zoo model ships no weights", where="MODEL", got=model, then="Train it first")
        return {"zoo": model, "weights": shipped[0].file}, "the weights that ship with the package"
    path = Path(model)
    if not path.is_file() and (own := zoo.shipped(model)) is not None:
        return {"zoo": own[0], "weights": own[1].file}, "these weights ship with the package"
    if not path.is_file():
        hint = did_you_mean(model, zoo.list_models())
        raise UsageError("there is no such file or zoo model", where="MODEL", got=model, then=hint)
    where = relative(path, folder)
    if path.suffix == ".json":
        return {"predictions": where}, "a file of detections, no model"
    if path.suffix in (".onnx", ".pt2"):
        return {"onnx" if path.suffix == ".onnx" else "exported": where}, "from the file's ending"
    if path.suffix in (".pt", ".pth", ".ckpt", ".safetensors", ".torchscript"):
        return _of_weights(path, where)
    allowed = (
        "a MegaDetector .json, .onnx, .pt2, .pt, .pth, .ckpt, .safetensors, a zoo name, smp:ARCH:ENCODER:WEIGHTS, "
        "torchvision:NAME:WEIGHTS"
    )
    raise UsageError("this is no known kind of model", where="MODEL", got=model, allowed=allowed)


def refuse_code(source: Mapping[str, Any], model: str, folder: Path) -> None:
    """Stops before anything that can execute code.

    Raises:
        UsageError: the source is a program, or its weights are a pickle of more than tensors.
    """
    from xaiseg.loading import EXECUTES

    runs = next((EXECUTES[kind] for kind in source if kind in EXECUTES), None)
    weights = folder / str(source.get("weights", ""))
    if runs is None and weights.is_file() and is_pickle(weights) and not loads_without_code(weights):
        runs = "the pickle"
    if runs is not None:
        then = "Use --trust if you trust whoever made the file"
        raise UsageError(f"{runs} {model} would execute code", where="MODEL", then=then)


def _of_weights(path: Path, where: str) -> tuple[dict[str, Any], str]:
    if is_torchscript(path):
        return {"torchscript": where}, "the file holds a program"
    if _pickled(path) == "ultralytics":
        return {"ultralytics": where}, "the file names modules of ultralytics"
    if _pickled(path) == "yolov5":
        raise UsageError(
            "this is a checkpoint of the YOLOv5 repository, such as MegaDetector 5", where="MODEL", got=path.name,
            then="Give the JSON file that MegaDetector wrote in its place, or export the model to ONNX",
        )  # fmt: skip
    return {"zoo": _fitting_zoo_model(path), "weights": where}, "names and shapes of the weights fit"


def _named_source(kind: str, rest: str, folder: Path) -> tuple[dict[str, Any], str]:
    parts = rest.split(":", 2 if kind == "smp" else 1)
    if len(parts) != (3 if kind == "smp" else 2):
        allowed = "smp:ARCH:ENCODER:WEIGHTS or torchvision:NAME:WEIGHTS"
        raise UsageError("the model is not named in full", where="MODEL", got=f"{kind}:{rest}", allowed=allowed)
    weights = relative(Path(parts[-1]), folder)
    if kind == "smp":
        return {"smp": {"arch": parts[0], "encoder": parts[1]}, "weights": weights}, "as given"
    return {"torchvision": parts[0], "weights": weights}, "as given"


def _pickled(path: Path) -> str:
    """Whose classes a pickle names, read as bytes: nothing of it is run."""
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        text = archive.read(names[0]) if names else b""
    return next((word for mark, word in _PICKLES if mark in text), "")


def _fitting_zoo_model(path: Path) -> str:
    if is_pickle(path) and not loads_without_code(path):
        raise UsageError(
            "this pickle holds more than tensors, such as a whole model, and no source takes a pickled model",
            where="MODEL", got=path.name,
            then="Export the model (ONNX, or torch.export to .pt2), or save its state_dict() and name its network",
        )  # fmt: skip
    state = read_weights(path, where="MODEL")
    channels, outputs = _ends(state)
    for name in zoo.list_models():
        try:
            fit_weights(zoo.build(name, channels, outputs), state)
        except UsageError:
            continue
        return name
    raise UsageError(
        "a file of weights does not say which network it belongs to",
        where="MODEL",
        got=path.name,
        then=f"Give torchvision:NAME:{path.name} or smp:ARCH:ENCODER:{path.name}, or write "
        f"source: {{torch: file.py:build, weights: {path.name}}} by hand",
    )


def _ends(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels that the first convolution takes and that the last one gives, as far as the order of names tells."""
    kernels = [value for value in state.values() if value.ndim == 4]
    takes = min((int(kernel.shape[1]) for kernel in kernels), default=1)
    gives = min((int(kernel.shape[0]) for kernel in kernels), default=1)
    return takes, gives
