"""What a reader is, and the registry: one dict and one decorator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry


@dataclass(frozen=True)
class Index:
    """What a reader finds without decoding a pixel.

    Attributes:
        cases: in any order; ids are unique.
        cluster_column: what gave the clusters, or None when images stand for themselves.
        source: the folder or description, for the report.
        generated: True for phantoms.
        unmatched: files that belong to no case: an image that the annotations do not list, a mask or a file of labels
            without its image.
        filtered: images that ``where`` leaves out.
    """

    cases: Sequence[CaseRef]
    cluster_column: str | None
    source: str
    generated: bool = False
    unmatched: Sequence[str] = ()
    filtered: int = 0


class Reader(Protocol):
    """Lists and loads the cases of one kind of data. ``load`` is pure: the same reference gives the same case."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists the cases; relative paths of the entry resolve against ``root``.

        Raises:
            UsageError: the entry does not fit the files.
            NothingToAudit: there is no case.
        """

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Loads one case.

        Raises:
            DataError: this case cannot be used, and why.
        """


READERS: Final[dict[str, Reader]] = {}
_ReaderClass = TypeVar("_ReaderClass", bound=type)


def reader(name: str) -> Callable[[_ReaderClass], _ReaderClass]:
    """Registers a reader class under a name; an instance without arguments is kept.

    Raises:
        ValueError: the name is taken, or ``index`` or ``load`` is missing.
    """

    def register(cls: _ReaderClass) -> _ReaderClass:
        missing = [method for method in ("index", "load") if not hasattr(cls, method)]
        if name in READERS or missing:
            raise ValueError(f"reader {name!r}: " + (f"lacks {missing}" if missing else "the name is taken"))
        READERS[name] = cls()
        return cls

    return register


def list_digest(cases: Sequence[CaseRef], root: Path) -> str:
    """Digest of ids, paths below ``root``, clusters, strata and survey; moving the whole folder changes nothing."""
    digest = hashlib.sha256()
    for case in cases:
        path = Path(case.image)
        shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        said = [*sorted(case.strata.items()), *sorted(case.survey.items())]
        strata = "\x1e".join(f"{name}={level}" for name, level in said)
        digest.update("\x1f".join((case.id, shown, case.cluster, strata, "")).encode())
    return digest.hexdigest()
