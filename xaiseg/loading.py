"""model.yaml -> subject: one small function for each kind of source.

Anything that can execute code - builders, functions, pickles, TorchScript and torch.export files - needs ``trust:
true`` and is named in the report. Nothing is fetched from a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from xaiseg import zoo
from xaiseg.adapters import Network, NetworkSegmenter, PredictionsFolder, module_network
from xaiseg.blackboxes import exported_network, function_network, onnx_network, torchscript_network
from xaiseg.detection_file import DetectionFile
from xaiseg.detectors_tiled import TiledDetector
from xaiseg.errors import UsageError, XaisegError, did_you_mean
from xaiseg.imports import import_callable
from xaiseg.modelfile import SOURCES, ModelFile, read_model_file
from xaiseg.subject import Detector, Segmenter, Subject, SubjectInfo, Threshold
from xaiseg.weights import file_digest, fit_weights, is_torchscript, loads_without_code, read_weights

__all__ = ["ModelFile", "load_subject", "read_model_file", "source_sentence", "weights_path", "weights_sha256"]

#: Kinds of source that execute code, and what does.
EXECUTES: Final = {
    "torch": "the builder",
    "python": "the function",
    "torchscript": "the TorchScript program",
    "exported": "the torch.export program",
    "ultralytics": "the pickle",
}

#: Names of the last layer's weights, whose first side tells how many channels a checkpoint answers with.
_HEADS: Final = ("head.weight", "segmentation_head.0.weight", "classifier.4.weight", "classifier.low_classifier.weight")

_TASKS: Final = ("segmentation", "detection")
_Loader = Callable[[ModelFile, torch.device], "Network | Subject"]
_LOADERS: dict[tuple[str, str], _Loader] = {}


def _source(kind: str, *tasks: str) -> Callable[[_Loader], _Loader]:
    """Registers the loader of a kind of source, for all tasks unless they are named."""
    if kind not in SOURCES:
        raise ValueError(f"{kind!r} is not a key of source")

    def register(loader: _Loader) -> _Loader:
        _LOADERS.update({(kind, task): loader for task in tasks or _TASKS})
        return loader

    return register


def load_subject(model: ModelFile, *, device: str = "cpu") -> Subject:
    """Loads the model that a model.yaml describes.

    Args:
        model: see :func:`xaiseg.modelfile.read_model_file`.
        device: where a torch module computes, e.g. "cpu" or "cuda"; ONNX and functions compute on the CPU.

    Raises:
        UsageError: a file is missing, weights do not fit, the source needs ``trust``, or the device is not there.
    """
    return subject_of(model, load_source(model, device=device))


def subject_of(model: ModelFile, loaded: Network | Subject) -> Subject:
    """The subject around a network that model.yaml describes, as :func:`load_subject` makes it.

    Raises:
        UsageError: it is of another task, or does not fit the input and output of model.yaml.
    """
    if isinstance(loaded, Network):
        loaded = _segmenter(model, loaded) if model.task == "segmentation" else _detector(model, loaded)
    expected = Detector if model.task == "detection" else Segmenter
    if not isinstance(loaded, expected):
        raise UsageError("the builder returned a subject of another task", where=model.where("task"),
                         got=type(loaded).__name__, allowed=model.task)  # fmt: skip
    if isinstance(loaded, Detector) and model.input.tile is not None:
        return TiledDetector(loaded, model.input.tile)
    return loaded


def load_source(model: ModelFile, *, device: str = "cpu") -> Network | Subject:
    """Loads what the source names: a network on its own grid, or a finished subject.

    Raises:
        UsageError: as :func:`load_subject`.
    """
    kind = model.source.kind
    if (kind, model.task) not in _LOADERS:
        other = next(task for task in _TASKS if task != model.task)
        what = f"a source of kind {kind} gives no {model.task} model"
        raise UsageError(what, where=model.where("source", kind), then=f"Is this task: {other}?")
    if kind == "ultralytics":
        _refuse_torchscript(model)
    if kind in EXECUTES and not model.trust:
        raise UsageError(
            f"{EXECUTES[kind]} {model.source.target} would execute code",
            where=model.where("source", kind),
            allowed="trust: true in model.yaml, for sources whose maker you trust",
            then="Safetensors, weights_only state dicts and ONNX need no trust",
        )
    return _LOADERS[kind, model.task](model, _device(device))


def _refuse_torchscript(model: ModelFile) -> None:
    """Ultralytics exports .pt and .torchscript files of TorchScript too, which its package does not open as a model."""
    name = model.source.target
    if (path := model.path.parent / name).is_file() and is_torchscript(path):
        then = f"Write source: {{torchscript: {name}}} in its place"
        raise UsageError("this file is a TorchScript program and no pickle of ultralytics",
                         where=model.where("source", "ultralytics"), got=name, then=then)  # fmt: skip


def _segmenter(model: ModelFile, network: Network) -> NetworkSegmenter:
    try:
        return NetworkSegmenter(network, name=model.name, classes=model.classes, spec=model.input, output=model.output)
    except UsageError as error:
        raise UsageError(str(error).rstrip("."), where=model.where("input", "size")) from error


def _detector(model: ModelFile, network: Network) -> Subject:
    from xaiseg.detector_sources import make_detector  # imports torchvision, which takes seconds

    return make_detector(model, network)


def weights_path(model: ModelFile) -> Path | None:
    """The file or folder that makes this model what it is: weights, program or predictions; None for a bare builder.

    A bare file name of a zoo model that is not beside model.yaml means the weights that ship with the package.
    """
    source = model.source
    name = source.weights_file
    if name is None:
        if source.kind in ("exported", "torchscript", "onnx", "ultralytics", "predictions"):
            return model.path.parent / source.target
        file = source.target.rpartition(":")[0]
        return model.path.parent / file if file.endswith(".py") else None
    beside = model.path.parent / name
    if source.kind == "zoo" and not beside.is_file() and Path(name).name == name and (zoo.WEIGHTS / name).is_file():
        return zoo.WEIGHTS / name
    return beside


def weights_sha256(model: ModelFile) -> str | None:
    """Digest of :func:`weights_path`, or None when there is no such file."""
    path = weights_path(model)
    return file_digest(path) if path is not None and path.exists() else None


def source_sentence(model: ModelFile) -> str:
    """Where the model comes from and whether its source executed code, as sentences for the report."""
    source = model.source
    names = {
        "zoo": "Zoo model",
        "torch": "Torch module built by",
        "exported": "torch.export file",
        "torchscript": "TorchScript file",
        "onnx": "ONNX file",
        "smp": "Model of segmentation-models-pytorch",
        "torchvision": "Model of torchvision",
        "ultralytics": "Model of ultralytics",
        "python": "Python function",
        "predictions": "Stored predictions",
    }
    weights = f" with weights {source.weights_file}" if source.weights_file else ""
    sentence = f"{names[source.kind]} {source.target}{weights}."
    executed = [f"{EXECUTES[source.kind]} {source.target}"] if source.kind in EXECUTES else []
    path = weights_path(model)
    if model.trust and source.weights_file and path is not None and path.is_file() and not loads_without_code(path):
        executed.append(f"the pickle {source.weights_file}")
    if not executed:
        return f"{sentence} Loading it executed no code of its source."
    return f"{sentence} Code of its source was executed, as trust: true allows: {' and '.join(executed)}."


@_source("zoo")
def _zoo(model: ModelFile, device: torch.device) -> Network:
    name = model.source.target
    try:
        card = zoo.card(name)
    except UsageError as error:
        hint = did_you_mean(name, zoo.list_models())
        raise UsageError(
            "no zoo model has this name", where=model.where("source", "zoo"), got=name, then=hint
        ) from error
    state = _state(model)
    outputs = len(model.classes) if model.task == "detection" else _head_channels(state, model)
    module = zoo.build(name, model.input.channels, outputs)
    network = _fitted(model, module, state, device, card.multiple_of)
    if _exposes_intrinsic(network, model.input.channels):
        network = replace(network, offers=network.offers | {"intrinsic"})
    return network


@_source("torch")
def _torch(model: ModelFile, device: torch.device) -> Network | Subject:
    built = _call(model, import_callable(model.source.target, model.path.parent, where=model.where("source", "torch")))
    if isinstance(built, Segmenter | Detector):
        return built
    if not isinstance(built, nn.Module):
        raise UsageError("the builder returned no torch module", where=model.where("source", "torch"),
                         got=type(built).__name__, allowed="nn.Module, Segmenter or Detector")  # fmt: skip
    if model.source.weights_file is not None:
        fit_weights(built, _state(model), where=model.where("source", "weights"))
    if model.task == "detection":
        return _built_detector(model, built, device)
    return module_network(built, device=device)


def _built_detector(model: ModelFile, module: nn.Module, device: torch.device) -> Network | Subject:
    from xaiseg.detector_sources import is_torchvision, listing_network, torchvision_module

    if is_torchvision(module):
        return torchvision_module(model, module, device)
    if model.output.layout == "torchvision":
        return listing_network(module, device)
    return module_network(module, device=device, multiple_of=1 if model.input.size else 32)


@_source("smp", "segmentation")
def _smp(model: ModelFile, device: torch.device) -> Network:
    import segmentation_models_pytorch as smp

    state = _state(model)
    source = model.source.smp
    assert source is not None  # the registry calls this for smp sources only
    named = f"{source.encoder} {source.options}"
    if any(mark in named for mark in ("hub:", "local-dir:", "://")):
        what = "an encoder is named by its architecture; nothing is fetched from a hub or another place"
        raise UsageError(what, where=model.where("source", "smp"), got=source.encoder)
    options = {
        **source.options,
        "encoder_weights": None,  # nothing is fetched from a network
        "in_channels": model.input.channels,
        "classes": _head_channels(state, model),
    }
    module = _call(model, lambda: smp.create_model(source.arch, encoder_name=source.encoder, **options))
    return _fitted(model, module, state, device, 32)


@_source("torchvision", "segmentation")
def _torchvision(model: ModelFile, device: torch.device) -> Network:
    from torchvision.models import get_model, list_models, segmentation

    name, place = model.source.target, model.where("source", "torchvision")
    known = list_models(module=segmentation)
    if name not in known:
        raise UsageError(
            "torchvision has no such segmentation model", where=place, got=name, then=did_you_mean(name, known)
        )
    if model.input.channels != 3:
        where = model.where("input", "channels")
        raise UsageError("models of torchvision take 3 channels", where=where, got=model.input.channels, allowed=3)
    state = _state(model)
    options: dict[str, Any] = {"num_classes": _head_channels(state, model)}
    if not name.startswith("lraspp"):
        options["aux_loss"] = any("aux_classifier." in key for key in state)
    return _fitted(model, get_model(name, weights=None, weights_backbone=None, **options), state, device, 1)


@_source("torchvision", "detection")
def _torchvision_detector(model: ModelFile, device: torch.device) -> Subject:
    from xaiseg.detector_sources import torchvision_detector

    return torchvision_detector(model, _state(model), device)


@_source("ultralytics", "detection")
def _ultralytics(model: ModelFile, device: torch.device) -> Subject:
    from xaiseg.detector_sources import ultralytics_detector

    return ultralytics_detector(model, _file(model), device)


@_source("torchscript")
def _torchscript(model: ModelFile, device: torch.device) -> Network:
    return torchscript_network(_file(model), model.input, device=device)


@_source("exported")
def _exported(model: ModelFile, device: torch.device) -> Network:
    return exported_network(_file(model), model.input, device=device)


@_source("onnx")
def _onnx(model: ModelFile, device: torch.device) -> Network:
    return onnx_network(_file(model), model.input, where=model.where("source", "onnx"))


@_source("python", "segmentation")
def _python(model: ModelFile, device: torch.device) -> Network:
    place = model.where("source", "python")
    return function_network(import_callable(model.source.target, model.path.parent, where=place))


@_source("python", "detection")
def _python_detector(model: ModelFile, device: torch.device) -> Network:
    from xaiseg.detector_sources import detecting_function

    place = model.where("source", "python")
    return detecting_function(import_callable(model.source.target, model.path.parent, where=place))


@_source("predictions", "segmentation")
def _predictions(model: ModelFile, device: torch.device) -> Subject:
    return PredictionsFolder(model.path.parent / model.source.target, model)


@_source("predictions", "detection")
def _detections(model: ModelFile, device: torch.device) -> Subject:
    threshold = Threshold(model.output.threshold.value, model.output.threshold.chosen_on)
    spec, offers = model.input, frozenset({"scores"})
    info = SubjectInfo(model.name, model.classes, spec.channels, spec.range, threshold, offers=offers)
    return DetectionFile(_file(model), info)


def _fitted(
    model: ModelFile, module: nn.Module, state: dict[str, Tensor], device: torch.device, multiple_of: int
) -> Network:
    fit_weights(module, state, where=model.where("source", "weights"))
    return module_network(module, device=device, multiple_of=multiple_of)


def _exposes_intrinsic(network: Network, channels: int) -> bool:
    """Whether a zoo model has an explanation of its own, found by asking it once."""
    ask: Callable[[Tensor], Any] | None = getattr(network.module, "intrinsic", None)
    if ask is None:
        return False
    side = 2 * network.multiple_of
    with torch.inference_mode():
        return bool(ask(torch.zeros(1, channels, side, side, device=network.device)))


def _state(model: ModelFile) -> dict[str, Tensor]:
    path = weights_path(model)
    assert path is not None  # the sources that call this require weights
    zoo.check_shipped(path)
    if model.source.kind == "zoo" and not path.is_file():
        shipped = [each.name for each in zoo.WEIGHTS.glob("*.safetensors")]
        raise UsageError("there is no such file of weights", where=model.where("source", "weights"), got=path.name,
                         then=did_you_mean(path.name, shipped))  # fmt: skip
    return read_weights(path, trust=model.trust, where=model.where("source", "weights"))


def _head_channels(state: dict[str, Tensor], model: ModelFile) -> int:
    """Output channels of the checkpoint; where its head is not known, what model.yaml says."""
    for name in state:
        if any(name == head or name.endswith(f".{head}") for head in _HEADS):
            return int(state[name].shape[0])
    return 1 if len(model.classes) == 2 and model.output.activation == "sigmoid" else len(model.classes)


def _file(model: ModelFile) -> Path:
    path = model.path.parent / model.source.target
    if not path.is_file():
        raise UsageError("there is no such file", where=model.where("source", model.source.kind), got=path)
    return path


def _call(model: ModelFile, build: Callable[[], Any]) -> Any:
    """Calls code that is not ours; whatever it raises becomes one clear error."""
    try:
        return build()
    except XaisegError:
        raise
    except Exception as error:
        what = f"{model.source.target} cannot be built: {type(error).__name__}: {str(error).splitlines()[:1] or ['']}"
        raise UsageError(what.replace("['", "").replace("']", ""), where=model.where("source")) from error


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError("this device is not available", where="--device", got=name, then="Use --device cpu") from error
    return device
