"""What autograd recorded of a score: which operations bend, and which of them a rule that hooks modules would miss.

DeepLift and guided backpropagation change what modules do on the way back. Anything that bends and is no such module
would be passed as in a plain gradient, so the recorded operations are compared with the modules first. DeepLift asks
for more: between its nonlinearities everything must be linear in the image, and a product of two activations (a gate,
attention, a normalisation by the image's own statistics) is not, though each factor alone looks it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from xaiseg.errors import SubjectError
from xaiseg.explainers.base import Session
from xaiseg.explainers.gradient import scored
from xaiseg.explainers.tap import evaluation_mode
from xaiseg.explainers.targets import Target

#: What autograd calls operations that are linear, whatever they are applied to.
LINEAR: Final = frozenset(
    {"AccumulateGrad", "Add", "Sub", "Neg", "Mean", "Sum", "Cumsum", "View", "UnsafeView", "ReshapeAlias", "Permute"}
    | {"Transpose", "T", "Mt", "Cat", "Stack", "Slice", "Select", "Unbind", "Split", "SplitWithSizes", "Index", "Alias"}
    | {"IndexSelect", "Gather", "Unsqueeze", "Squeeze", "Expand", "Repeat", "Clone", "ToCopy", "Copy", "CopyBackwards"}
    | {"CopySlices", "AsStrided", "ConstantPadNd", "ReflectionPad2D", "ReplicationPad2D", "AvgPool2D", "Roll", "Flip"}
    | {"AdaptiveAvgPool2D", "MkldnnAdaptiveAvgPool2D", "PixelShuffle", "PixelUnshuffle", "Im2Col", "Col2Im", "Diagonal"}
    | {"UpsampleNearest2D", "UpsampleNearestExact2D", "UpsampleBilinear2D", "UpsampleBicubic2D"}
    | {"UpsampleBilinear2DAa", "UpsampleBicubic2DAa", "MaskedFill"}
)
#: Those that are linear where only one of their factors depends on the image.
PRODUCTS: Final = frozenset({"Mul", "Mm", "Mv", "Bmm", "Dot", "Addmm", "Addmv", "Baddbmm", "Convolution", "Addcmul"})
#: Normalisations: linear with stored statistics, not with the image's own.
NORMALISATIONS: Final = frozenset({"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"})
#: Activations that rectify: guided backpropagation is about these.
RECTIFY: Final = frozenset(
    {"Relu", "Hardtanh", "Threshold", "LeakyRelu", "RreluWithNoise", "PreluKernel", "Elu", "Celu", "Softplus", "Gelu"}
    | {"Silu", "Mish", "Hardswish", "Hardsigmoid", "Hardshrink", "Softshrink", "LogSigmoid", "Glu"}
    | {"Clamp", "ClampMin", "ClampMax", "Maximum", "Abs"}
)


@dataclass(frozen=True)
class Operation:
    """One operation behind a score that depends on the image.

    Attributes:
        name: as autograd has it, without its ending: "Relu".
        factors: how many of its inputs depend on the image.
        second: whether its second input does.
        trained: whether it normalises by the statistics of the image itself.
        path: the innermost module whose output it made, or "" for a function call within a module.
        kind: type of that module, or None.
    """

    name: str
    factors: int
    second: bool
    trained: bool
    path: str
    kind: type | None

    @property
    def bends(self) -> str:
        """What makes it no linear function of the image, in a word or two; "" where it is one."""
        if self.name in LINEAR:
            return ""
        if self.name in PRODUCTS:
            return "product of two activations" if self.factors > 1 else ""
        if self.name == "Div":
            return "division by an activation" if self.second else ""
        if self.name in NORMALISATIONS:
            return "normalisation by the image's own statistics" if self.trained else ""
        return self.name


@dataclass(frozen=True)
class Recorded:
    """The operations of one score, and how often each module was executed.

    Attributes:
        operations: in no order.
        executions: path -> how often, of modules without children.
        kinds: path -> type of these modules.
    """

    operations: tuple[Operation, ...]
    executions: dict[str, int]
    kinds: dict[str, type]


def record(session: Session, target: Target) -> Recorded:
    """Runs one forward pass and reads what autograd recorded of the score."""
    module = session.subject.module
    made: dict[Any, str] = {}
    executions: Counter[str] = Counter()
    parts = dict(module.named_modules()) if module is not None else {}
    bottom = {path: part for path, part in parts.items() if not any(part.children())}

    before: dict[str, list[Any]] = {}

    def hooks_of(path: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enters(_: nn.Module, inputs: tuple[object, ...]) -> None:
            before[path] = [getattr(each, "grad_fn", None) for each in inputs]

        def leaves(_: nn.Module, __: object, output: object) -> None:
            executions[path] += 1
            node = getattr(output, "grad_fn", None)
            # What hands its input on (dropout, identity) made nothing; compared before, since ReLU may work in place.
            if all(node is not each for each in before[path]):
                made.setdefault(node, path)

        return enters, leaves

    handles = []
    for path, part in bottom.items():
        enters, leaves = hooks_of(path)
        handles += [part.register_forward_pre_hook(enters), part.register_forward_hook(leaves)]
    leaf = session.image[None].clone().requires_grad_(True)
    try:
        with evaluation_mode(module), torch.enable_grad():
            value = scored(session, target)(leaf)
    finally:
        for handle in handles:
            handle.remove()
    kinds = {path: type(part) for path, part in bottom.items()}
    return Recorded(tuple(_operations(value, leaf, made, kinds)), dict(executions), kinds)


def _operations(value: Tensor, leaf: Tensor, made: dict[Any, str], kinds: dict[str, type]) -> Iterator[Operation]:
    nodes = list(_nodes(value))
    users: defaultdict[Any, list[Any]] = defaultdict(list)
    for node in nodes:
        for source, _ in node.next_functions:
            users[source].append(node)
    waiting = [node for node in nodes if getattr(node, "variable", None) is leaf]
    depends: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node not in depends:
            depends.add(node)
            waiting.extend(users[node])
    for node in nodes:
        if node in depends:
            inputs = [source in depends for source, _ in node.next_functions]
            name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
            # The first argument of these is added, not multiplied.
            factors = sum(inputs[1:] if name in ("Addmm", "Addmv", "Baddbmm", "Addcmul") else inputs)
            trained = bool(getattr(node, "_saved_training", False))
            path = made.get(node, "")
            yield Operation(name, factors, inputs[1:2] == [True], trained, path, kinds.get(path))


def _nodes(value: Tensor) -> Iterator[Any]:
    """The operations behind a value."""
    seen: set[Any] = set()
    waiting: list[Any] = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(following for following, _ in node.next_functions)


def refuse(method: str, session: Session, hidden: list[tuple[str, str]], allowed: str, then: str) -> None:
    """Raises an error that lists operations which a method would pass as in a plain gradient, if there are any.

    Args:
        method: name of the explainer.
        session: whose network it is.
        hidden: (what it is, path of its module or "") each.
        allowed: what the method can pass through.
        then: what to do instead.

    Raises:
        SubjectError: ``hidden`` is not empty.
    """
    if not hidden:
        return
    counts = Counter(what for what, _ in hidden)
    listed = []
    for what, count in sorted(counts.items()):
        paths = sorted({path or "a function call" for name, path in hidden if name == what})
        more = ", ..." if len(paths) > 3 else ""
        listed.append(f"{what} ({count} times) in {', '.join(paths[:3])}{more}")
    raise SubjectError(
        f"{method} cannot see operations of the network or of the target that are no modules that it knows",
        where=session.subject.info.name,
        got="; ".join(listed),
        allowed=allowed,
        then=then,
    )
