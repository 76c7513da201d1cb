"""A model.yaml in the making: values, what each guess rests on, and a picture of how the model did."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xaiseg.modelfile import flow, parse_model

if TYPE_CHECKING:
    from xaiseg.data.case import Case
    from xaiseg.data.entry import DataEntry
    from xaiseg.modelfile import ModelFile
    from xaiseg.subject import Prediction


@dataclass(frozen=True)
class Draft:
    """A model.yaml in the making.

    Attributes:
        values: top-level key -> value, or sub-key -> value.
        guesses: (key, sub-key or "") -> what the guess rests on.
        entry: the data.
        folder: where the file will stand; relative paths start there.
        tried: (case, Prediction or Boxes) of the images that the model was tried on.
        dice: mean Dice of the tried images against their references, or None.
        agreement: of a detector, average precision on the tried images with all classes taken for one, or None.
        met: of a detector, labels of the tried images that its best boxes meet.
        notes: lines for the entry of the data that the user may want, written behind a #.
        warnings: what a user should look at.
    """

    values: Mapping[str, Any]
    guesses: Mapping[tuple[str, str], str]
    entry: DataEntry
    folder: Path
    tried: Sequence[tuple[Case, Any]] = field(default=(), repr=False)
    dice: float | None = None
    agreement: float | None = None
    met: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def text(self) -> str:
        """The file, every guess with a comment."""
        lines = ["# Written by `xaiseg init`. Check every line that says guess."]
        for key, value in self.values.items():
            if isinstance(value, Mapping) and key in ("input", "output"):
                lines.append(f"{key}:")
                lines += [self._line(key, name, part, "  ") for name, part in value.items()]
            else:
                lines.append(self._line(key, "", value, ""))
        held = self.entry.model_dump(mode="json", exclude_defaults=True)
        if self.entry.path is not None:
            held["path"] = relative(Path(self.entry.path), self.folder)
        lines += ["data:", "  test:", *(self._line("data", key, value, "    ") for key, value in held.items())]
        lines += [f"    # {note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def model(self) -> ModelFile:
        """The draft, read as a model.yaml."""
        return parse_model(self.text(), path=self.folder / "model.yaml")

    def with_values(self, key: str, guess: str, **parts: Any) -> Draft:
        """The draft with other values under a key, all of them resting on one guess."""
        held = {**self.values.get(key, {}), **parts}
        guesses = {**self.guesses, **{(key, name): guess for name in parts}}
        return replace(self, values={**self.values, key: held}, guesses=guesses)

    def _line(self, key: str, name: str, value: Any, indent: str) -> str:
        line = f"{indent}{name or key}: {flow(value)}"
        guess = self.guesses.get((key, name))
        return f"{line}  # guess: {guess}" if guess else line


def relative(path: Path, folder: Path) -> str:
    """A path as a file in ``folder`` would name it."""
    try:
        return Path(os.path.relpath(path, folder or ".")).as_posix()
    except ValueError:  # another drive on Windows
        return path.absolute().as_posix()


def draw(case: Case, prediction: Prediction, *, low_high: tuple[float, float] = (0.0, 1.0)) -> Any:
    """A picture: the image, the reference on it (blue), the prediction on it (orange); each at most 512 px.

    Returns:
        A Pillow image.
    """
    from PIL import Image, ImageDraw

    low, high = low_high
    grey = np.clip((case.image - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    rgb = np.moveaxis(grey[:3] if len(grey) >= 3 else np.repeat(grey[:1], 3, axis=0), 0, -1)
    panels = [("image", rgb)]
    if case.reference is not None:
        panels.append(("reference", _tint(rgb, (case.reference > 0) & (case.reference != 255), (60, 150, 255))))
    panels.append(("prediction", _tint(rgb, prediction.labels > 0, (255, 150, 40))))
    factor = min(1.0, 512 / max(rgb.shape[:2]))
    width, height = max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor))
    sheet = Image.new("RGB", (len(panels) * (width + 8) - 8, height + 18), "white")
    for index, (name, pixels) in enumerate(panels):
        sheet.paste(Image.fromarray(pixels).resize((width, height)), (index * (width + 8), 18))
        ImageDraw.Draw(sheet).text((index * (width + 8) + 2, 3), name, fill="black")
    return sheet


def _tint(rgb: np.ndarray, region: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    tinted = rgb.copy()
    tinted[region] = (0.55 * rgb[region] + 0.45 * np.array(colour)).astype(np.uint8)
    return tinted
