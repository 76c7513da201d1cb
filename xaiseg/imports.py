"""Finds a function by ``file.py:name`` or ``package.module:name``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from xaiseg.errors import UsageError, did_you_mean


def import_callable(target: str, folder: Path, *, where: object = None) -> Callable[..., Any]:
    """Imports a function; this executes the module, so the caller asks for trust first.

    Args:
        target: ``file.py:name``, relative to ``folder``, or ``package.module:name``.
        folder: is on the import path while a file is executed, so that it can import its neighbours.
        where: named in errors.

    Raises:
        UsageError: the module is missing or fails, or has no such function.

    >>> import_callable("pathlib:Path", Path("."))
    <class 'pathlib.Path'>
    """
    module_name, _, name = target.rpartition(":")
    if not module_name or not name:
        allowed = "file.py:function or package.module:function"
        raise UsageError("this names no function", where=where, got=target, allowed=allowed)
    is_file = module_name.endswith(".py")
    if is_file and not (folder / module_name).is_file():
        raise UsageError("there is no such file", where=where, got=folder / module_name)
    try:
        module = _execute(folder / module_name) if is_file else importlib.import_module(module_name)
    except Exception as error:
        what = f"{module_name} cannot be imported: {type(error).__name__}: {error}"
        raise UsageError(what, where=where) from error
    found = getattr(module, name, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        what = f"{module_name} has no function '{name}'"
        raise UsageError(what, where=where, then=did_you_mean(name, public) if public else None)
    return found  # type: ignore[no-any-return]


def _execute(path: Path) -> ModuleType:
    path = path.resolve()
    # The name depends on the path, so that two files called net.py do not replace one another.
    name = f"xaiseg_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module
