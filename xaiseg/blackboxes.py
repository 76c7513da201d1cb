"""Networks that come as a program or a function: TorchScript, torch.export, ONNX, Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.adapters import Network
from xaiseg.errors import SubjectError, UsageError
from xaiseg.modelfile import InputSpec
from xaiseg.outputs import pick_tensor

_ONNX_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


def torchscript_network(path: Path, spec: InputSpec, *, device: torch.device) -> Network:
    """A TorchScript file: scores, and gradients where the program lets them through; no view inside.

    Raises:
        UsageError: the file is no TorchScript.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit warns that it is no longer developed
            module = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise UsageError("the file is no TorchScript program", where=path) from error
    count = sum(parameter.numel() for parameter in module.parameters())
    offers = _offers(module, spec, device, batch=1, size=None)
    return Network(module, offers, device=device, parameters=count)


def exported_network(path: Path, spec: InputSpec, *, device: torch.device) -> Network:
    """A torch.export file: scores, and gradients where the program lets them through; no view inside.

    Sides and batch sizes that the export fixed are kept to.

    Raises:
        UsageError: the file is no exported program, or takes no single image batch.
    """
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch.export raises whatever the archive's parser met
        raise UsageError("the file is no torch.export program of this torch version", where=path) from error
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    wanted = set(program.graph_signature.user_inputs)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in wanted]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        got = ", ".join(str(tuple(shape)) for shape in shapes)
        raise UsageError("the program takes no single image batch", where=path, got=got, allowed="(B, C, H, W)")
    batch, size = _fixed(list(shapes[0]), spec, path)
    module = program.module()
    count = sum(parameter.numel() for parameter in module.parameters())
    offers = _offers(module, spec, device, batch=batch or 1, size=size)
    return Network(module, offers, device=device, parameters=count, fixed_batch=batch, fixed_size=size)


def onnx_network(path: Path, spec: InputSpec, *, where: object) -> Network:
    """An ONNX file, run on the CPU by onnxruntime; a black box that offers scores only.

    Raises:
        UsageError: onnxruntime is not installed, the file is damaged, or takes no single image batch.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise UsageError("ONNX files need onnxruntime", where=where, then="pip install 'xaiseg[onnx]'") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # warnings about the graph are not for the user of an audit
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common parent
        what = f"onnxruntime cannot open the file: {str(error).splitlines()[0]}"
        raise UsageError(what, where=where, got=path.name) from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _ONNX_TYPES:
        got = ", ".join(f"{item.name} {item.type} {item.shape}" for item in inputs)
        raise UsageError("the ONNX graph takes no single image batch", where=where, got=got, allowed="(B, C, H, W)")
    batch, size = _fixed(inputs[0].shape, spec, where)
    if session.get_outputs()[0].shape is not None and len(session.get_outputs()[0].shape) == 2:
        batch = batch or 1  # rows without an image to which they belong, as end-to-end detectors answer
    names = [item.name for item in session.get_outputs()]
    kind = _ONNX_TYPES[inputs[0].type]

    def call(images: Tensor) -> Any:
        pixels = np.ascontiguousarray(images.numpy())
        pixels = np.rint(pixels).clip(0, 255).astype(kind) if kind is np.uint8 else pixels.astype(kind, copy=False)
        values = session.run(names, {inputs[0].name: pixels})
        return dict(zip(names, values, strict=True)) if len(names) > 1 else values[0]

    return Network(call, frozenset({"scores"}), fixed_batch=batch, fixed_size=size)


def function_network(function: Callable[[np.ndarray], Any]) -> Network:
    """A Python function: gets (B, C, H, W) float32 of one size, after ``input:`` was applied; a black box.

    It returns what ``output:`` declares: an array or tensor (B, channels, h, w), or (B, h, w) for labels; a list of one
    array an image is stacked.
    """

    def call(images: Tensor) -> Any:
        answer = function(images.numpy())
        if isinstance(answer, list) and len(answer) == len(images):
            return np.stack([np.asarray(item) for item in answer])
        return answer

    return Network(call, frozenset({"scores"}))


def _fixed(shape: list[Any], spec: InputSpec, where: object) -> tuple[int | None, tuple[int, int] | None]:
    """The batch and the size that a graph fixes; symbolic sides are not integers."""
    batch, channels, height, width = (side if isinstance(side, int) else None for side in shape)
    if channels is not None and channels != spec.channels:
        got = f"input: channels: {spec.channels}"
        allowed = f"{channels}, as in the graph's input {[str(side) for side in shape]}"
        raise UsageError("the graph takes another number of channels", where=where, got=got, allowed=allowed)
    return batch, (height, width) if height is not None and width is not None else None


def _offers(
    module: Callable[[Tensor], Any], spec: InputSpec, device: torch.device, *, batch: int, size: tuple[int, int] | None
) -> frozenset[str]:
    """Tries one small image: a program offers gradients only where they get through."""
    multiple = spec.multiple_of or 32
    height, width = size or spec.size or (2 * multiple, 2 * multiple)
    image = torch.full((batch, spec.channels, height, width), spec.range[0], device=device, requires_grad=True)
    try:
        answer = pick_tensor(module(image))
    except (RuntimeError, AssertionError, SubjectError):
        return frozenset({"scores"})  # it may still run on the sizes that it is meant for
    if not (answer.requires_grad and answer.is_floating_point()):
        return frozenset({"scores"})
    return frozenset({"scores", "forward", "gradients"})
