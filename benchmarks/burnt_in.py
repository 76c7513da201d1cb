"""What marks that the scanner burnt in do to a segmenter: caliper crosses around the lesion, and words.

    python -m benchmarks.burnt_in examples/clinical/busbra/radiomicnet.yaml --data-root FOLDER

Crosses are found by their shape (normalised correlation with a plus or an x of three sizes), words as rows of strokes
of one height. In the edit the marks of a kind are filled in from their surroundings (Telea). In the sham equal regions
are filled in elsewhere: for a cross at another place as far from the lesion's border, for words on the background.
Printed are the paired differences, edit minus sham, with 90 % intervals over patients.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from scipy import ndimage

from xaiseg.data.case import Case
from xaiseg.data.readers import load_case, open_dataset
from xaiseg.editing.fills import removed
from xaiseg.editing.regions import free_place, moved, widened
from xaiseg.fitting_masks import image_dice
from xaiseg.loading import load_subject, read_model_file
from xaiseg.seeds import generator
from xaiseg.statistics.means import mean_interval
from xaiseg.subject import Segmenter

#: Correlation from which on a shape is a cross, and how much brighter (of 255) than its surroundings its middle is.
LEAST: Final = 0.72
BRIGHTER: Final = 25.0
#: Half lengths of the arms of a cross, pixels.
ARMS: Final = (4, 6, 8)
#: Letters: height and width in pixels, share of their box that is stroke, and how many stand in a row.
HEIGHT: Final = (7, 16)
WIDTH: Final = (2, 14)
STROKE: Final = (0.15, 0.85)
LETTERS: Final = 4

Mark = np.ndarray


def crosses(image: np.ndarray) -> list[Mark]:
    """(H, W) bool of each caliper cross of an image (H, W) in [0, 255], its number beside it included if it touches."""
    score = np.zeros(image.shape, np.float32)
    for shape in _shapes():
        half = shape.shape[0] // 2
        fit = cv2.matchTemplate(image.astype(np.float32), shape, cv2.TM_CCOEFF_NORMED)
        inner = (slice(half, half + fit.shape[0]), slice(half, half + fit.shape[1]))
        score[inner] = np.maximum(score[inner], fit)
    brighter = cv2.blur(image.astype(np.float32), (3, 3)) - cv2.blur(image.astype(np.float32), (15, 15))
    score[brighter < BRIGHTER] = 0
    found = []
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    while score.max() >= LEAST:
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        found.append((rows - row) ** 2 + (columns - column) ** 2 <= (max(ARMS) + 2) ** 2)
        score[found[-1]] = 0
    return found


def _shapes() -> Iterable[np.ndarray]:
    for arm in ARMS:
        for slanted in (False, True):
            shape, reach = np.zeros((2 * arm + 5, 2 * arm + 5), np.float32), round(arm * 0.75) if slanted else arm
            for step in range(-reach, reach + 1):
                for down, right in ((step, step), (step, -step)) if slanted else ((step, 0), (0, step)):
                    shape[arm + 2 + down, arm + 2 + right] = 1.0
            spare = arm - reach
            yield cv2.GaussianBlur(shape[spare : len(shape) - spare, spare : len(shape) - spare], (3, 3), 0.6)


def words(image: np.ndarray) -> list[Mark]:
    """(H, W) bool of each row of at least four letters of an image (H, W) uint8."""
    strokes = cv2.morphologyEx(image, cv2.MORPH_TOPHAT, np.ones((7, 7), np.uint8)) > 70
    _, _, held, _ = cv2.connectedComponentsWithStats(strokes.astype(np.uint8), connectivity=8)
    boxes = [tuple(int(value) for value in row) for row in held[1:]]  # left, top, width, height, area
    letters = [
        box
        for box in boxes
        if HEIGHT[0] <= box[3] <= HEIGHT[1]
        and WIDTH[0] <= box[2] <= WIDTH[1]
        and STROKE[0] < box[4] / (box[2] * box[3]) < STROKE[1]
    ]
    letters.sort()
    taken: set[tuple[int, ...]] = set()
    found = []
    for first in letters:
        row = [first]
        for box in letters:
            level = abs(box[1] - row[-1][1]) <= 2 and abs(box[3] - row[-1][3]) <= 2
            if level and 0 < box[0] - row[-1][0] < 20:
                row.append(box)
        if first not in taken and len(row) >= LETTERS:
            taken |= set(row)
            region = np.zeros(image.shape, bool)
            top, bottom = min(box[1] for box in row), max(box[1] + box[3] for box in row)
            region[max(0, top - 2) : bottom + 2, max(0, row[0][0] - 2) : row[-1][0] + row[-1][2] + 2] = True
            found.append(region)
    return found


KINDS: Final[dict[str, Callable[[np.ndarray], list[Mark]]]] = {"calipers": crosses, "words": words}


def elsewhere(mark: Mark, lesion: np.ndarray, taken: np.ndarray, kind: str, rng: np.random.Generator) -> Mark | None:
    """The mark moved to where nothing is; a cross as far from the lesion's border as it was, or None."""
    if kind == "words":
        place = free_place(mark, taken | lesion, rng)
        return None if place is None else moved(mark, *place)
    signed = ndimage.distance_transform_edt(~lesion) - ndimage.distance_transform_edt(lesion)
    middle = np.round(ndimage.center_of_mass(mark)).astype(int)
    near = np.argwhere(np.abs(signed - signed[tuple(middle)]) <= 1.0)
    for row, column in rng.permutation(near):
        other = moved(mark, int(row - middle[0]), int(column - middle[1]))
        if other.sum() == mark.sum() and not (other & taken).any():
            return np.asarray(other)
    return None


@dataclass(frozen=True)
class Pair:
    """One image and one kind of mark: Dice and predicted area (share of the image) three times, and the patient."""

    kind: str
    patient: str
    marks: int
    dice: tuple[float, float, float]  # as it is, marks filled in, equal regions elsewhere filled in
    area: tuple[float, float, float]


def pair(subject: Segmenter, case: Case, kind: str, threshold: float, seed: int) -> Pair | None:
    """None where no mark of the kind is found or none has room elsewhere."""
    assert case.reference is not None
    low, high = float(case.image.min()), float(case.image.max())
    grey = np.round(255 * (case.image[0] - low) / max(high - low, 1e-6)).astype(np.uint8)
    marks = {name: find(grey) for name, find in KINDS.items()}
    taken = np.zeros(case.shape, bool)
    for mark in (one for found in marks.values() for one in found):
        taken |= widened(mark, 2)
    lesion, rng = case.reference == 1, generator(seed, f"burnt-in {kind} {case.id}")
    edit, sham, count = np.zeros(case.shape, bool), np.zeros(case.shape, bool), 0
    for mark in marks[kind]:
        other = elsewhere(mark, lesion, taken | sham, kind, rng)
        if other is not None:
            edit, sham, count = edit | mark, sham | other, count + 1
    if not count:
        return None
    images = [case.image, *(removed(case.image, region, "telea") for region in (edit, sham))]
    labels = [
        (logits.softmax(dim=0)[1] >= threshold).long()
        for logits in subject.predict([torch.from_numpy(image) for image in images])
    ]
    reference = torch.from_numpy(case.reference.astype(np.int64))
    dice = tuple(image_dice(label, reference)[0] for label in labels)
    area = tuple(float((label == 1).float().mean()) for label in labels)
    return Pair(kind, case.ref.cluster, count, dice, area)  # type: ignore[arg-type]  # three of each


def lines_of(pairs: Sequence[Pair], seed: int) -> list[str]:
    """What the marks do, kind by kind."""
    lines = []
    for kind in KINDS:
        held = [one for one in pairs if one.kind == kind]
        if not held:
            lines.append(f"{kind}: none found")
            continue
        patients = np.array([one.patient for one in held])
        lines.append(
            f"{kind}: {sum(one.marks for one in held)} on {len(held)} images of {len(set(patients))} patients; "
            f"mean Dice {np.mean([one.dice[0] for one in held]):.3f} as they are"
        )
        for name, values in (
            ("Dice, filled in minus sham", [one.dice[1] - one.dice[2] for one in held]),
            ("size of |Dice change| beyond the sham", [_size(one.dice) for one in held]),
            ("predicted area, % of the image", [100 * (one.area[1] - one.area[2]) for one in held]),
        ):
            found = mean_interval(np.array(values), patients, seed=seed)
            ends = "no interval" if found.lower is None else f"90 % interval {found.lower:+.4f} to {found.upper:+.4f}"
            lines.append(f"  {name}: {found.value:+.4f} ({ends})")
    return lines


def _size(dice: tuple[float, float, float]) -> float:
    return abs(dice[1] - dice[0]) - abs(dice[2] - dice[0])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model.yaml of a segmenter with one lesion class")
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = read_model_file(args.model)
    subject, spec, entry = load_subject(model), model.image_spec(), model.data["test"]
    assert isinstance(subject, Segmenter)
    root, pairs, cases = args.data_root or model.data_root, [], 0
    for ref in open_dataset("test", entry, root=root, spec=spec).cases:
        case, cases = load_case(entry, ref, spec), cases + 1
        found = [pair(subject, case, kind, subject.info.threshold.value, args.seed) for kind in KINDS]
        pairs += [one for one in found if one is not None]
    print(f"{args.model}: {cases} test images, threshold {subject.info.threshold.value}, seed {args.seed}")
    print("\n".join(lines_of(pairs, args.seed)))


if __name__ == "__main__":
    main()
