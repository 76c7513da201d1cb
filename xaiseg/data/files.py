"""Finding files: folders beside the data or below the root, and one file an id."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xaiseg.errors import MissingFileError, NothingToAudit, UsageError


@dataclass(frozen=True)
class Place:
    """Where an entry's relative names start.

    Attributes:
        base: the entry's own folder (``path:``), or the root when it names none.
        root: the folder of model.yaml.
    """

    base: Path
    root: Path

    def find(self, name: str) -> Path:
        """A named file or folder: below ``base`` when it is there, else below ``root``."""
        beside = self.base / name
        return beside if beside.exists() else self.root / name

    def folder(self, named: str | None, otherwise: str) -> Path:
        """The named folder, else ``otherwise`` below ``base``.

        Raises:
            UsageError: it is missing.
        """
        folder = self.base / otherwise if named is None else self.find(named)
        if not folder.is_dir():
            raise MissingFileError(
                "this folder is missing", where=folder, then="Check path:, images:, masks: and the root"
            )
        return folder


@dataclass(frozen=True)
class Partners:
    """The files of one folder that go with the images.

    Attributes:
        folder: where they lie.
        files: id -> file.
        suffix: of the name that a missing file would have.
    """

    folder: Path
    files: Mapping[str, Path]
    suffix: str = ".png"

    def of(self, id: str) -> str:
        """The partner of an image. A missing one keeps its expected name, so that loading the case says so."""
        return str(self.files.get(id, self.folder / f"{id}{self.suffix}"))


def stem(name: str, suffixes: Sequence[str]) -> str | None:
    """The name without its suffix, or None when it has none of them.

    >>> stem("a.b.nii.gz", (".nii", ".nii.gz")), stem("a.txt", (".nii",))
    ('a.b', None)
    """
    ends = [suffix for suffix in suffixes if name.lower().endswith(suffix)]
    return name[: -len(ends[0])] if ends and not name.startswith(".") else None


def by_id(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Id (the name without suffix) -> file, sorted by name; hidden files are no data.

    Raises:
        UsageError: two files have the same id.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        id = stem(path.name, suffixes)
        if id is None:
            continue
        if id in found:
            raise UsageError("two files have the same id", where=folder, got=f"{found[id].name}, {path.name}")
        found[id] = path
    return found


def images_by_id(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """As :func:`by_id`.

    Raises:
        NothingToAudit: there is none.
        UsageError: two files have the same id.
    """
    found = by_id(folder, suffixes)
    if not found:
        raise NothingToAudit("this folder holds no image", where=folder, allowed=", ".join(suffixes))
    return found


def partners(place: Place, named: str | None, otherwise: str | None, suffixes: Sequence[str]) -> Partners | None:
    """Masks beside the images: the named folder, else ``otherwise`` when it is there, else None.

    Raises:
        UsageError: the named folder is missing, or two files have the same id.
    """
    if named is None and (otherwise is None or not (place.base / otherwise).is_dir()):
        return None
    folder = place.folder(named, otherwise or "")
    return Partners(folder, by_id(folder, suffixes), suffixes[0])


def without_image(held: Partners | None, images: Collection[str], *, but: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the partners that go with no image, sorted; ``but`` are ids of other files that may lie there.

    >>> held = Partners(Path("masks"), {"a": Path("masks/a.png"), "b": Path("masks/b.png")})
    >>> without_image(held, {"a"}), without_image(None, {"a"})
    (('masks/b.png',), ())
    """
    lost = sorted(set(held.files) - set(images) - set(but)) if held else ()
    return tuple(f"{held.folder.name}/{held.files[id].name}" for id in lost) if held else ()
