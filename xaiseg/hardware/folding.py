"""Batch normalisation folded into the convolution before it, and rectifiers joined to what they rectify.

In evaluation mode y = gamma (x - mean) / sqrt(var + eps) + beta is affine in every channel, so it disappears into
weights and bias (B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiseg.errors import UsageError
from xaiseg.hardware.exact import Layer, layer_of
from xaiseg.hardware.graph import Graph, Node, outside_hint


@dataclass(frozen=True)
class Convolution:
    """A convolution in floating point with everything folded in.

    Attributes:
        weight: float64, shaped as the module's; a linear layer's has two more dimensions of size one.
        bias: (outputs,) float64.
        geometry: the layer's geometry; its weights are zeros.
        linear: whether values are (B, C) vectors.
    """

    weight: Tensor
    bias: Tensor
    geometry: Layer
    linear: bool


@dataclass(frozen=True)
class Folded:
    """A graph without norms.

    Attributes:
        graph: nodes, rectifiers joined.
        convolutions: by node name.
    """

    graph: Graph
    convolutions: dict[str, Convolution]


def fold(graph: Graph) -> Folded:
    """Folds norms, joins rectifiers, drops nodes that change nothing.

    Raises:
        UsageError: a norm that reads anything but a convolution of its own, values that are not finite.

    >>> from xaiseg.hardware.graph import trace
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    >>> [node.name for node in fold(trace(net)).graph.nodes]
    ['input_1', 'input_1.quantised', '_0']
    """
    kept: dict[str, Node] = {}
    convolutions: dict[str, Convolution] = {}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        source = kept[node.inputs[0]] if node.inputs else None
        alone = source is not None and source.name != graph.output and _alone(graph, node, renamed)
        if node.kind == "identity":
            renamed[node.name] = node.inputs[0]
        elif node.kind == "norm":
            if source is None or source.kind != "convolution" or source.rectifier is not None or not alone:
                raise UsageError(
                    f"{node.operator} cannot be folded: it reads no convolution of its own",
                    where=node.path,
                    then=f"Keep it in floating point: {outside_hint([node.path])}",
                )
            assert node.module is not None  # norms are modules
            convolutions[source.name] = _normalised(convolutions[source.name], node.module)
            renamed[node.name] = source.name
        elif node.kind == "relu" and alone and _takes_rectifier(source):
            assert source is not None
            kept[source.name] = replace(source, rectifier=node.operation)
            renamed[node.name] = source.name
        else:
            kept[node.name] = node
            if node.kind == "convolution":
                convolutions[node.name] = _opened(node)
    nodes = tuple(_callable(node, convolutions) for node in kept.values())
    for name, found in convolutions.items():
        _check_finite(found, kept[name].path)
    return Folded(Graph(nodes, graph.inputs, renamed.get(graph.output, graph.output)), convolutions)


def _alone(graph: Graph, node: Node, renamed: dict[str, str]) -> bool:
    """Whether nothing else reads what a node reads, under any of its names."""
    names = {node.inputs[0]} | {old for old, new in renamed.items() if new == node.inputs[0]}
    readers = [other for other in graph.nodes if names & set(other.inputs) and other.name not in names]
    return len(readers) == 1 and graph.output not in names


def _takes_rectifier(source: Node | None) -> bool:
    return source is not None and source.kind in ("convolution", "add") and source.rectifier is None


def _opened(node: Node) -> Convolution:
    module = node.module
    linear = isinstance(module, nn.Linear)
    if linear:
        assert isinstance(module, nn.Linear)
        weight = module.weight.detach().double()[:, :, None, None]
        geometry = Layer(torch.zeros_like(weight))
    else:
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        weight = module.weight.detach().double()
        try:
            geometry = layer_of(module, torch.zeros_like(weight))
        except UsageError as error:
            raise UsageError(str(error), where=node.path, then="Keep it outside") from error
    bias = weight.new_zeros(geometry.outputs) if module.bias is None else module.bias.detach().double()
    return Convolution(weight, bias, geometry, linear)


def _normalised(convolution: Convolution, norm: nn.Module) -> Convolution:
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    if norm.running_mean is None or norm.running_var is None:
        raise UsageError("the norm keeps no running statistics, so it cannot be folded", where=type(norm).__name__)
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.detach().double()
    shift = 0.0 if norm.bias is None else norm.bias.detach().double()
    weight = convolution.weight * per_output(convolution.geometry, gain)
    return replace(convolution, weight=weight, bias=(convolution.bias - norm.running_mean.double()) * gain + shift)


def per_output(layer: Layer, values: Tensor) -> Tensor:
    """(outputs,) values in a shape that broadcasts against a layer's weights.

    >>> per_output(Layer(torch.zeros(2, 3, 1, 1), transposed=True), torch.tensor([1, 2, 3])).shape
    torch.Size([1, 3, 1, 1])
    """
    if not layer.transposed:
        return values.view(-1, 1, 1, 1)
    if layer.groups == 1:
        return values.view(1, -1, 1, 1)
    # Rows are input channels: each belongs to one group and meets that group's outputs.
    return values.view(layer.groups, 1, -1).expand(-1, layer.inputs, -1).flatten(0, 1)[:, :, None, None]


def by_output(convolution: Convolution) -> Tensor:
    """(outputs, ...) weights of each output channel."""
    layer, weight = convolution.geometry, convolution.weight
    if not layer.transposed:
        return weight
    grouped = weight.reshape(layer.groups, layer.inputs, -1, *weight.shape[2:])
    return grouped.transpose(1, 2).flatten(0, 1)


def _check_finite(convolution: Convolution, path: str) -> None:
    if not bool(torch.isfinite(convolution.weight).all() and torch.isfinite(convolution.bias).all()):
        raise UsageError("weights, bias or norm hold NaN or infinity", where=path, allowed="finite numbers")


def _callable(node: Node, convolutions: dict[str, Convolution]) -> Node:
    """The node with a float computation of what was folded into it."""
    call = node.call
    if node.kind == "convolution":
        call = float_convolution(convolutions[node.name])
    if (rectifier := node.rectifier) is None:
        return replace(node, call=call)
    before, ceiling = call, rectifier.ceiling
    return replace(node, call=lambda *values: before(*values).clamp(0, ceiling))


def float_convolution(convolution: Convolution) -> Callable[[Tensor], Tensor]:
    """The folded convolution in the dtype of its input.

    >>> one = torch.ones(1, 1, 1, 1)
    >>> float_convolution(Convolution(one, torch.ones(1), Layer(one), False))(one).item()
    2.0
    """
    layer = convolution.geometry

    def call(x: Tensor) -> Tensor:
        weight, bias = convolution.weight.to(x), convolution.bias.to(x)
        if convolution.linear:
            if x.ndim != 2:
                raise UsageError("a linear layer reads vectors", got=tuple(x.shape), allowed="(B, C)")
            return F.linear(x, weight[:, :, 0, 0], bias)
        if layer.transposed:
            return F.conv_transpose2d(
                x, weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
            )
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    return call


def float_values(graph: Graph, arguments: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Every value of a graph in floating point, by node name.

    Raises:
        UsageError: another number of arguments than the network has.
    """
    if len(arguments) != len(graph.inputs):
        raise UsageError("the network has other arguments", got=len(arguments), allowed=", ".join(graph.inputs))
    found: dict[str, Tensor] = dict(zip(graph.inputs, arguments, strict=True))
    for node in graph.nodes:
        if node.kind != "input":
            found[node.name] = node.call(*(found[name] for name in node.inputs))
    return found
