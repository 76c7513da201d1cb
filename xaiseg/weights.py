"""Files of weights: read without executing code, found under the usual wrappings, and fitted to a module."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xaiseg.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Names under which checkpoints keep the state dict.
NESTS: Final = ("state_dict", "model_state_dict", "model", "ema", "net", "network", "weights")
#: Prefixes that wrappers put before every name: data parallelism, torch.compile, Lightning modules.
PREFIXES: Final = ("module.", "_orig_mod.", "model.", "net.")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_dir():
        entries = sorted((p.relative_to(path).as_posix(), file_digest(p)) for p in path.rglob("*") if p.is_file())
        return hashlib.sha256(repr(entries).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def loads_without_code(path: Path) -> bool:
    """Whether a file of weights holds plain tensors, so that reading it executes nothing."""
    import torch

    if path.suffix == ".safetensors":
        return True
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return False
    except (OSError, RuntimeError, EOFError):
        return True  # not readable at all; reading it for good will say why
    return True


def read_weights(path: Path, *, trust: bool = False, where: object = None) -> dict[str, Tensor]:
    """Reads a state dict.

    Args:
        path: .safetensors, or a file of ``torch.save``.
        trust: read a pickle that can execute code, when plain reading fails.
        where: named in errors.

    Raises:
        UsageError: the file is missing, damaged, holds no state dict, or needs ``trust``.
    """
    import torch
    from torch import nn

    if not path.is_file():
        raise UsageError("there is no such file of weights", where=where, got=path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not is_pickle(path):
            raise UsageError("the file holds no weights", where=where, got=path.name) from error
        if not trust:
            raise UsageError(
                "the weights are a pickle that can execute code when it is read",
                where=where,
                got=path.name,
                allowed="safetensors, or a state dict that loads with weights_only=True",
                then="Set trust: true in model.yaml only if you trust whoever made the file",
            ) from error
        held = _unpickle(path, where)
    except Exception as error:
        raise UsageError("the file of weights is damaged or of another kind", where=where, got=path.name) from error
    if isinstance(held, nn.Module):
        held = held.state_dict()
    return _find_state(held, path, where)


def is_pickle(path: Path) -> bool:
    """Whether it is a file of torch.save, new (a zip archive) or old (a pickle, which begins with its protocol)."""
    with path.open("rb") as stream:
        return zipfile.is_zipfile(path) or stream.read(1) == b"\x80"


def is_torchscript(path: Path) -> bool:
    """Whether a file holds a program of TorchScript, told without running it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _unpickle(path: Path, where: object) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        what = f"the pickle of weights cannot be read: {str(error).splitlines()[0] if str(error) else error!r}"
        raise UsageError(what, where=where, got=path.name) from error


def _find_state(held: Any, path: Path, where: object) -> dict[str, Tensor]:
    import torch
    from torch import nn

    for _ in range(4):
        if isinstance(held, Mapping) and held and all(isinstance(value, torch.Tensor) for value in held.values()):
            return dict(held)
        nest = next((name for name in NESTS if isinstance(held, Mapping) and name in held), None)
        if nest is None:
            break
        held = held[nest].state_dict() if isinstance(held[nest], nn.Module) else held[nest]
    got = ", ".join(map(str, list(held)[:6])) if isinstance(held, Mapping) else type(held).__name__
    raise UsageError(
        "the file holds no state dict", where=where, got=got, allowed=f"tensors, or one of {', '.join(NESTS)}"
    )


def fit_weights(module: nn.Module, state: Mapping[str, Tensor], *, where: object = None) -> None:
    """Loads a state dict into a module, every name and shape matched; wrappers' prefixes are taken off.

    Raises:
        UsageError: names or shapes do not match.
    """
    own = module.state_dict()
    state = _strip(state, own)
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the file, {tuple(value.shape)} in the model"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for names, what in ((missing, "missing"), (unexpected, "not of the model"), (shapes, "of another shape"))
        if names
    ]
    if problems:
        raise UsageError("the weights do not fit the model", where=where, got="; ".join(problems))
    module.load_state_dict(state, strict=False)


def _strip(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = dict(state)
    while True:
        prefix = next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None)
        if prefix is None or any(name in own for name in state):
            return state
        state = {name.removeprefix(prefix): value for name, value in state.items()}
