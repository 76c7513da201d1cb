"""Breast-ultrasound phantoms: generated B-mode images of known truth, deterministic under a seed.

They are no anatomy. Layers of tissue with speckle (Rayleigh envelope of filtered complex noise), attenuation, shadowing
and enhancement behind lesions, lesions of several margins, sizes, textures and contrasts, and structures that look like
lesions without being one. Four devices differ in speckle, dynamic range, gain and frame; device D occurs in the test
split only. Speckle model: Wagner et al., IEEE Trans. Sonics Ultrason. 30 (1983).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import numpy as np

from xaiseg.seeds import generator

Split = Literal["train", "validation", "test"]
Meta = dict[str, str]

#: Patients and lesion-free patients of each split unless the entry says otherwise.
SIZES: Final[dict[Split, tuple[int, int]]] = {"train": (480, 120), "validation": (100, 25), "test": (360, 90)}
DEVICES: Final[dict[Split, tuple[str, ...]]] = {
    "train": ("A", "B", "C"),
    "validation": ("A", "B", "C"),
    "test": ("A", "B", "C", "D"),
}
MARGINS: Final = ("smooth", "lobulated", "spiculated")


@dataclass(frozen=True)
class Device:
    """How a scanner draws.

    Attributes:
        axial, lateral: standard deviation of the point spread in pixels.
        dynamic_db: range between black and white.
        gain_db: added before compression.
        attenuation_db: lost from top to bottom.
        frame: width of the black margin and ruler at the right, in pixels.
    """

    axial: float
    lateral: float
    dynamic_db: float
    gain_db: float
    attenuation_db: float
    frame: int


SCANNERS: Final[dict[str, Device]] = {
    "A": Device(0.7, 1.4, 58.0, 0.0, 9.0, 0),
    "B": Device(0.9, 2.0, 50.0, 2.0, 12.0, 8),
    "C": Device(0.6, 1.1, 64.0, -2.0, 7.0, 0),
    "D": Device(1.1, 2.4, 46.0, 4.0, 14.0, 12),
}


@dataclass(frozen=True)
class PhantomSpec:
    """A set of phantoms; sets of different splits never share a patient.

    Attributes:
        split: "train", "validation" or "test".
        patients: number of patients; None = the split's default.
        lesion_free: how many of them have no lesion; None = a quarter.
        seed: seed of everything.
        size: (height, width) in pixels.
    """

    split: Split = "test"
    patients: int | None = None
    lesion_free: int | None = None
    seed: int = 0
    size: tuple[int, int] = (144, 176)

    @property
    def n_patients(self) -> int:
        """Number of patients."""
        return SIZES[self.split][0] if self.patients is None else self.patients

    @property
    def n_lesion_free(self) -> int:
        """Number of patients without a lesion."""
        if self.lesion_free is not None:
            return self.lesion_free
        return SIZES[self.split][1] if self.patients is None else self.patients // 4


@dataclass(frozen=True)
class Phantom:
    """Who one image shows; cheap, drawn without making the image."""

    id: str
    patient: str
    view: int
    device: str
    density: int
    margin: str

    @property
    def meta(self) -> Meta:
        """Columns as a sidecar would give them."""
        return {
            "patient": self.patient,
            "device": self.device,
            "density": str(self.density),
            "lesion_kind": self.margin,
        }


@lru_cache(maxsize=8)
def phantom_list(spec: PhantomSpec) -> tuple[Phantom, ...]:
    """All images of a set, in order: one or two a patient.

    >>> images = phantom_list(PhantomSpec(patients=8))
    >>> len({image.patient for image in images}), sum(image.margin == "none" and image.view == 1 for image in images)
    (8, 2)
    """
    rng = generator(spec.seed, f"phantoms/{spec.split}")
    free = set(rng.permutation(spec.n_patients)[: spec.n_lesion_free].tolist())
    images = []
    for patient in range(spec.n_patients):
        own = generator(spec.seed, f"phantoms/{spec.split}/patient", str(patient))
        devices = DEVICES[spec.split]
        device = devices[int(own.integers(len(devices)))]
        density = int(own.integers(1, 5))
        margin = "none" if patient in free else str(own.choice(MARGINS, p=(0.4, 0.35, 0.25)))
        for view in range(1, 2 + int(own.random() < 0.25)):
            name = f"{spec.split}-p{patient:04d}"
            images.append(Phantom(f"{name}-{view}", name, view, device, density, margin))
    return tuple(images)


def phantom_case(spec: PhantomSpec, index: int) -> tuple[np.ndarray, np.ndarray, Meta]:
    """Makes one image.

    Args:
        spec: the set.
        index: position in :func:`phantom_list`.

    Returns:
        image uint8 (H, W), mask uint8 (H, W) in {0, 1}, and the columns patient, device, density, lesion_kind.

    >>> image, mask, meta = phantom_case(PhantomSpec(), 3)
    >>> image.shape, image.dtype.name, sorted(meta)
    ((144, 176), 'uint8', ['density', 'device', 'lesion_kind', 'patient'])
    """
    phantom = phantom_list(spec)[index]
    rng = generator(spec.seed, f"phantoms/{spec.split}/image", phantom.id)
    scene = _Scene.empty(spec.size, rng, phantom.density)
    scene.add_confusers(rng)
    mask = np.zeros(spec.size, dtype=bool)
    if phantom.margin != "none":
        for _ in range(1 + int(rng.random() < 0.06)):
            mask |= scene.add_lesion(rng, phantom.margin)
    device = SCANNERS[phantom.device]
    image, shown = _draw(scene, device, rng)
    return image, (mask & shown).astype(np.uint8), phantom.meta


def write_phantoms(spec: PhantomSpec, folder: Path) -> Path:
    """Writes images/, masks/ and meta.csv, as a folder of anybody's data would look; returns the folder."""
    import csv

    from PIL import Image

    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, ["id", "patient", "device", "density", "lesion_kind"])
        writer.writeheader()
        for index, phantom in enumerate(phantom_list(spec)):
            image, mask, meta = phantom_case(spec, index)
            Image.fromarray(image).save(folder / "images" / f"{phantom.id}.png")
            Image.fromarray(mask * np.uint8(255)).save(folder / "masks" / f"{phantom.id}.png")
            writer.writerow({"id": phantom.id, **meta})
    return folder


def _zoomed(rng: np.random.Generator, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Smooth noise of unit variance: a coarse grid of normal values, enlarged."""
    from PIL import Image

    coarse = Image.fromarray(rng.standard_normal(grid).astype(np.float32))
    fine = np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return np.asarray((fine - fine.mean()) / (fine.std() + np.float32(1e-6)))


def _border(rng: np.random.Generator, width: int, level: float, swing: float) -> np.ndarray:
    """A wavy line across the image, in pixels from the top."""
    x = np.arange(width, dtype=np.float32) / width
    waves = sum(
        rng.normal(0, swing / (k + 1)) * np.sin(2 * np.pi * (k + 0.5) * x + rng.uniform(0, 2 * np.pi)) for k in range(4)
    )
    return np.asarray(level + waves, dtype=np.float32)


@dataclass
class _Scene:
    """Echo strength and transmission of the tissue, both (H, W); what is added changes them."""

    echo: np.ndarray
    through: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    gland: tuple[float, float]

    @classmethod
    def empty(cls, size: tuple[int, int], rng: np.random.Generator, density: int) -> _Scene:
        """Skin, fat, gland and muscle."""
        height, width = size
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        skin = _border(rng, width, 0.05 * height, 0.5)
        fat = _border(rng, width, rng.uniform(0.16, 0.30) * height, 4.0)
        muscle = _border(rng, width, rng.uniform(0.76, 0.92) * height, 3.0)
        streaks = np.exp(np.float32(0.35) * _zoomed(rng, (height // 5, 5), size))
        patches = np.exp(np.float32(0.22) * _zoomed(rng, (9, 9), size))
        fibres = np.exp(np.float32(0.5) * _zoomed(rng, (height // 4, 3), size))
        gland = (0.55 + 0.12 * density) * streaks * patches
        echo = np.where(rows < fat, 0.42 * patches, gland)
        echo = np.where(rows > muscle, 0.32 * fibres, echo)
        echo = np.where(rows < skin, np.float32(1.9), echo)
        for line, strength in ((fat, 0.8), (muscle, 1.6)):
            echo += strength * np.exp(-(((rows - line) / 1.3) ** 2))
        limits = float(fat.max()) / height, float(muscle.min()) / height
        return cls(echo.astype(np.float32), np.ones(size, np.float32), rows, columns, limits)

    def add_confusers(self, rng: np.random.Generator) -> None:
        """Shadows from the skin, ducts, and fat lobules with a bright capsule: dark, but no lesion."""
        height, width = self.echo.shape
        down, across = self.rows[:, :1], self.columns[:1]
        for _ in range(int(rng.poisson(0.7))):
            centre, half = rng.uniform(0, width), rng.uniform(3, 12)
            band = np.exp(-(((across - centre) / half) ** 4))
            start = rng.uniform(0.03, 0.4) * height
            shade = rng.uniform(0.4, 0.75) * band * np.clip((down - start) / 12, 0, 1)
            self.through *= np.float32(1) - shade.astype(np.float32)
        for _ in range(int(rng.poisson(0.8))):
            line = _border(rng, width, rng.uniform(*self.gland) * height, 7.0)
            tube = np.exp(-(((self.rows - line) / rng.uniform(1.0, 2.0)) ** 2))
            start, length = rng.uniform(0, 0.7) * width, rng.uniform(0.2, 0.5) * width
            part = (self.columns > start) & (self.columns < start + length)
            self.echo *= 1 - 0.75 * tube * part
        for _ in range(int(rng.poisson(0.8))):
            shape = self._shape(rng, "smooth", rng.uniform(0.05, 0.10) * height, flat=rng.uniform(0.4, 0.6))
            self.echo *= 1 - 0.25 * _soft(shape, 1.5)
            self.echo += 0.5 * np.exp(-((shape / 1.4) ** 2))

    def add_lesion(self, rng: np.random.Generator, margin: str) -> np.ndarray:
        """Adds a lesion with what lies behind it; returns its mask (H, W) bool."""
        height = self.echo.shape[0]
        radius = height * float(np.clip(np.exp(rng.normal(np.log(0.125), 0.34)), 0.065, 0.26))
        flat = rng.uniform(0.55, 0.85) if margin != "spiculated" else rng.uniform(0.8, 1.15)
        shape = self._shape(rng, margin, radius, flat=flat)
        blur = {"smooth": 0.9, "lobulated": 1.3, "spiculated": 2.0}[margin]
        inside = _soft(shape, blur)
        contrast = float(np.clip(0.42 * rng.beta(1.5, 2.2) + 0.04, 0.05, 0.36))
        texture = np.exp(np.float32(rng.uniform(0.1, 0.4)) * _zoomed(rng, (14, 16), self.echo.shape))
        local = float(np.median(self.echo[shape < 0])) if (shape < 0).any() else 0.7
        self.echo = self.echo * (1 - inside) + inside * contrast * local * texture
        if rng.random() < 0.5:
            self.echo += 0.35 * np.exp(-(((shape - 1.0) / 1.6) ** 2))
        self._behind(rng, inside, enhancing=margin == "smooth" and rng.random() < 0.7)
        return shape < 0

    def _behind(self, rng: np.random.Generator, inside: np.ndarray, *, enhancing: bool) -> None:
        """Shadow or enhancement below the lesion; stronger the more lesion the beam has crossed."""
        path = np.cumsum(inside, axis=0) / (inside.sum(axis=0).max() + 1e-6)
        effect = rng.uniform(0.2, 0.6) if enhancing else -rng.uniform(0.15, 0.65)
        self.through *= 1 + effect * path * (1 - inside)

    def _shape(self, rng: np.random.Generator, margin: str, radius: float, *, flat: float) -> np.ndarray:
        """Signed distance-like field (H, W) in pixels: negative inside."""
        height, width = self.echo.shape
        low, high = self.gland
        y = height * rng.uniform(low + 0.06, max(low + 0.1, min(high, 0.72) - 0.02))
        x = width * rng.uniform(0.2, 0.8)
        turn = rng.normal(0, 0.25)
        dy, dx = self.rows - np.float32(y), self.columns - np.float32(x)
        cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        u = (dx * cosine + dy * sine) / np.float32(radius)
        v = (-dx * sine + dy * cosine) / np.float32(radius * flat)
        distance = np.hypot(u, v)
        near = distance < 1.7  # farther away the exact margin does not matter
        angle = np.arctan2(v[near], u[near])
        waves = {"smooth": (2, 3), "lobulated": (3, 4, 5), "spiculated": (5, 7, 9, 11, 13)}[margin]
        size = {"smooth": 0.04, "lobulated": 0.09, "spiculated": 0.055}[margin]
        edge = np.ones_like(angle)
        for k in waves:
            edge += rng.normal(0, size) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
        distance[near] -= np.clip(edge, 0.6, 1.5) - 1.0
        return np.asarray((distance - 1.0) * np.float32(radius * np.sqrt(flat)))


def _soft(shape: np.ndarray, blur: float) -> np.ndarray:
    """Membership in [0, 1]: 1 inside, 0 outside, a logistic edge."""
    return np.asarray(1.0 / (1.0 + np.exp(np.clip(shape / (0.6 * blur), -30, 30))))


def _speckle(size: tuple[int, int], device: Device, rng: np.random.Generator) -> np.ndarray:
    """Rayleigh envelope with mean 1: the modulus of complex noise seen through the point spread."""
    from scipy.ndimage import gaussian_filter

    spread = (device.axial, device.lateral)
    real, imaginary = (gaussian_filter(part, spread, truncate=3.0) for part in _noise(size, rng))
    envelope = np.hypot(real, imaginary)
    return np.asarray(envelope / envelope.mean())


def _noise(size: tuple[int, int], rng: np.random.Generator) -> Iterator[np.ndarray]:
    yield from rng.standard_normal((2, *size), dtype=np.float32)


def _draw(scene: _Scene, device: Device, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Speckle, attenuation and log compression to uint8; also where the image shows tissue."""
    height, width = scene.echo.shape
    amplitude = np.maximum(scene.echo * scene.through, 0.01) * _speckle((height, width), device, rng)
    loss = device.attenuation_db * (scene.rows / height) ** 1.5
    level = 20.0 * np.log10(amplitude + 1e-3) - loss + device.gain_db + rng.normal(0, 1.0)
    pixels = np.clip(0.66 + level / device.dynamic_db, 0.0, 1.0) * 255.0
    shown = np.ones((height, width), dtype=bool)
    if device.frame:
        shown[:, width - device.frame :] = False
        pixels = np.where(shown, pixels, 0.0)
        pixels[::12, width - device.frame + 2 : width - device.frame // 2] = 190.0
    return pixels.round().astype(np.uint8), shown
