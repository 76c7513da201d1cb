"""A network in evaluation mode as a flat list of nodes, each with an integer form or kept outside, by name.

The trace is symbolic (torch.fx): it follows the modules' own code, so control flow that depends on values or shapes
stops it. What has no integer form is refused with its module path, unless the caller keeps that module outside: then
it runs in floating point, its inputs leave the integers and its outputs enter them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import Tensor, fx, nn

from xaiseg.errors import UsageError
from xaiseg.hardware.operators import GATES, OPERATORS, POSITIONAL, REASONS, Operation

#: Operators that read a tensor's shape.
_OF_SHAPES: Final = frozenset({"getattr", "getitem", "size"})


@dataclass(frozen=True)
class Node:
    """One value of the network.

    Attributes:
        name: unique.
        operation: what computes it.
        inputs: names of the values that it reads.
        path: the module that computes it, or whose code does.
        operator: the operator in the user's words, "Conv2d".
        call: the same in floating point: tensors in the order of ``inputs`` to a tensor.
        module: the convolution or norm itself.
        rectifier: a rectifier that reads this value alone, after :func:`xaiseg.hardware.folding.fold`.
        reason: why an outside node is outside.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    path: str
    operator: str
    call: Callable[..., Tensor]
    module: nn.Module | None = None
    rectifier: Operation | None = None
    reason: str = ""

    @property
    def kind(self) -> str:
        """The operation's kind."""
        return self.operation.kind


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be computed.

    Attributes:
        nodes: all of them.
        inputs: names of the network's arguments.
        output: name of its answer.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    output: str

    @property
    def outside(self) -> tuple[Node, ...]:
        """The nodes that run in floating point: the part of the network that cannot move."""
        return tuple(node for node in self.nodes if node.kind == "outside")

    def readers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read a value."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def remains(self) -> list[str]:
        """One sentence for each operator that stays in floating point: path, operator and why."""
        found = (
            f"{node.path or 'the network itself'} ({node.operator}) stays in floating point: {node.reason}."
            for node in self.outside
            if node.operator != "constant"
        )
        return list(dict.fromkeys(found))


def trace(network: nn.Module, *, outside: Sequence[str] = ()) -> Graph:
    """The graph of a network.

    Args:
        network: in evaluation mode; its answer is one tensor.
        outside: what stays in floating point: paths of modules, with everything below them, and names of operators
            that the code calls as functions, "gelu".

    Raises:
        UsageError: training mode, code that cannot be traced, an operator without an integer form, an ``outside`` that
            names nothing, no convolution, more than one output.

    >>> graph = trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval())
    >>> [node.kind for node in graph.nodes]
    ['input', 'quantise', 'convolution', 'relu']
    """
    if training := [path or "network" for path, module in network.named_modules() if module.training]:
        raise UsageError("this module is in training mode", where=training[0], then="Call network.eval() first")
    tracer = _Tracer(tuple(outside))
    try:
        traced = tracer.trace(network)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        raise _untraced(network, tracer.stopped, error) from error
    module = fx.GraphModule(network, traced)
    nodes = [_node(node, module, tuple(outside)) for node in traced.nodes if node.op != "output"]
    known = {*dict(network.named_modules()), *(node.operator for node in nodes)}
    if strange := sorted(set(outside) - known):
        allowed = "a path of named_modules(), or an operator of the code"
        raise UsageError("the network has no such part", where="outside", got=", ".join(strange), allowed=allowed)
    if not any(node.kind == "convolution" for node in nodes):
        there = any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) for module in network.modules())
        raise UsageError(
            "all convolutions are kept outside" if there else "the network has no convolution",
            where=type(network).__name__,
            allowed="one module or more of Conv2d, ConvTranspose2d, Linear",
            then="There is nothing that can move to integers",
        )
    _refuse_unknown(nodes)
    (answer,) = next(node for node in traced.nodes if node.op == "output").args
    if not isinstance(answer, fx.Node):
        raise UsageError("the network answers more than one tensor", where=type(network).__name__, allowed="one")
    inputs = _arguments(traced)
    kept = tuple(node for node in nodes if node.kind != "input" or node.name in inputs)
    return _with_borders(_without_tail(Graph(kept, inputs, answer.name)))


def _arguments(traced: fx.Graph) -> tuple[str, ...]:
    """The network's arguments without the last ones that have a default and no reader."""
    found = [node for node in traced.nodes if node.op == "placeholder"]
    while found and found[-1].args and not found[-1].users:
        found.pop()
    return tuple(node.name for node in found)


def _untraced(network: nn.Module, path: str, error: Exception) -> UsageError:
    """What to say of code that the trace cannot follow.

    Args:
        network: the whole.
        path: the module whose code it is; "" = the network itself, which cannot stay outside of itself.
        error: what the trace says.
    """
    then = "The network itself decides: move that code into a module of its own and keep it outside"
    return UsageError(
        "the network's code cannot be traced",
        where=path or type(network).__name__,
        got=f"{type(error).__name__}: {error}".split("\n")[0],
        allowed="code without decisions on values or shapes",
        then=f"Keep the module that decides in floating point: {outside_hint([path])}" if path else then,
    )


def outside_hint(names: Sequence[str]) -> str:
    """The line of model.yaml that keeps these outside.

    >>> outside_hint(["head.norm", "0.1"])
    'outside: [head.norm, "0.1"]'
    """
    # A path of numbers alone would be read as a number.
    return f"outside: [{', '.join(name if name[:1].isalpha() else json.dumps(name) for name in names)}]"


class _Tracer(fx.Tracer):
    """Modules that stay outside are one node each.

    Attributes:
        outside: paths of modules, and names of operators.
        stopped: path of the innermost module whose code the trace could not follow; "" = the network's own.
    """

    def __init__(self, outside: tuple[str, ...]) -> None:
        super().__init__()
        self.outside = outside
        self.stopped = ""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Follows a module's code and remembers where that fails."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.stopped = self.stopped or self.path_of_module(m)
            raise

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the trace does not enter a module."""
        if _below(module_qualified_name, self.outside) or type(m) in OPERATORS:
            return True
        return super().is_leaf_module(m, module_qualified_name)


def _below(path: str, outside: tuple[str, ...]) -> bool:
    return any(path == kept or path.startswith(kept + ".") for kept in outside)


def _node(node: fx.Node, root: fx.GraphModule, outside: tuple[str, ...]) -> Node:
    module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    key = type(module) if module is not None else node.target
    operator = key.__name__ if callable(key) and hasattr(key, "__name__") else str(key)
    path = str(node.target) if module is not None else _path(node)
    inputs = tuple(source.name for source in node.all_input_nodes)
    made = Node(node.name, Operation("outside"), inputs, path, operator, _call(node, root), module)
    if node.op == "placeholder":
        return replace(made, operation=Operation("input"), path="", operator="input")
    if _below(path, outside) or (module is None and operator in outside):
        return replace(made, reason=REASONS.get(key, "kept outside on request"))
    if node.op == "get_attr":
        return replace(made, reason="a constant", operator="constant")
    if key in GATES:
        return replace(made, reason="gates are sigmoids and products, which the digit-serial unit does not compute")
    found = _read(node, key, module, root)
    if isinstance(found, Operation):
        return replace(made, operation=found)
    return replace(made, operation=Operation("outside"), reason="! " + found)


def _read(node: fx.Node, key: object, module: nn.Module | None, root: fx.GraphModule) -> Operation | str:
    """The operation of a node, or why it has none."""
    if key not in OPERATORS:
        return REASONS.get(key, "it has no integer form")
    arguments: dict[str, Any] = {}
    if module is not None:
        arguments = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        arguments.pop("training")
    elif key in POSITIONAL:
        arguments = {**dict(zip(POSITIONAL[key], node.args, strict=False)), **node.kwargs}
    else:
        normalised = node.normalized_arguments(root, normalize_to_only_use_kwargs=True)
        if normalised is None:
            return "its arguments cannot be read"
        arguments = dict(normalised.kwargs)
    found = OPERATORS[key](arguments)
    sources = node.all_input_nodes  # each once
    if isinstance(found, str) or found.kind not in ("add", "concat"):
        return found if isinstance(found, str) or len(sources) == 1 else "its arguments are computed"
    wanted = 2 if found.kind == "add" else len(arguments["tensors"])
    if len(sources) != wanted or any(source.op == "get_attr" for source in sources):
        return "it reads a constant, or one value twice"
    return found


def _call(node: fx.Node, root: fx.GraphModule) -> Callable[..., Tensor]:
    """The node's own computation as a function of its inputs."""
    sources = node.all_input_nodes

    def call(*values: Tensor) -> Tensor:
        held = dict(zip(sources, values, strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: held[source])
        if node.op == "call_module":
            return root.get_submodule(str(node.target))(*args, **kwargs)  # type: ignore[no-any-return]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)  # type: ignore[no-any-return]
        if node.op == "get_attr":
            return _attribute(root, str(node.target))
        return node.target(*args, **kwargs)  # type: ignore[operator, no-any-return]

    return call


def _attribute(root: nn.Module, path: str) -> Tensor:
    found: Any = root
    for part in path.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _path(node: fx.Node) -> str:
    """The module whose code holds a function's call; "" for the network's own."""
    stack = node.meta.get("nn_module_stack") or {}
    last = next(reversed(stack.values()), ("",))
    return str(last[0]) if isinstance(last, tuple) else str(last)


def _refuse_unknown(nodes: list[Node]) -> None:
    unknown = [node for node in nodes if node.reason.startswith("! ")]
    if not unknown:
        return
    # Code that reads a shape stands before what needs it: the latter is what a user can change.
    first = next((node for node in unknown if node.operator not in _OF_SHAPES), unknown[0])
    places = list(dict.fromkeys(f"{node.operator} in {node.path or 'the network itself'}" for node in unknown))
    names = list(dict.fromkeys(node.operator if node.module is None else node.path for node in unknown))
    able = sum(node.kind == "convolution" for node in nodes)
    raise UsageError(
        f"{first.operator} cannot move to integers: {first.reason.removeprefix('! ')}",
        where=first.path or "the network's own code",
        got=", ".join(places[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else ""),
        allowed=f"the rest, {able} convolutions among it, can move",
        then=f"Change that, or keep what cannot move in floating point: {outside_hint(names)}",
    )


def _without_tail(graph: Graph) -> Graph:
    """Steps up behind the last convolution stay outside: logits leave the integers with all their digits."""
    nodes = list(graph.nodes)
    for place in range(len(nodes) - 1, -1, -1):
        node = nodes[place]
        readers = [other for other in nodes if node.name in other.inputs]
        if node.kind in ("nearest", "bilinear") and all(other.kind == "outside" for other in readers):
            reason = "it follows the last convolution, whose sums keep all digits"
            nodes[place] = replace(node, operation=Operation("outside"), reason=reason)
    return replace(graph, nodes=tuple(nodes))


def _with_borders(graph: Graph) -> Graph:
    """A node ``quantise`` behind every value in floating point that an integer node reads."""
    outer = {node.name for node in graph.nodes if node.kind in ("input", "outside")}
    border = {
        name for node in graph.nodes if node.kind not in ("input", "outside") for name in node.inputs if name in outer
    }

    def renamed() -> Iterator[Node]:
        for node in graph.nodes:
            if node.kind in ("input", "outside"):
                yield node
                if node.name in border:
                    where = node.path or node.name
                    name = f"{node.name}.quantised"
                    yield Node(name, Operation("quantise"), (node.name,), where, "quantise", lambda x: x)
            else:
                inputs = tuple(f"{name}.quantised" if name in border else name for name in node.inputs)
                yield replace(node, inputs=inputs)

    return replace(graph, nodes=tuple(renamed()))
