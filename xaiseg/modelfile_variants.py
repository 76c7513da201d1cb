"""The part of model.yaml that names other builds of the model, which are audited beside it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from xaiseg.modelfile_parts import Part, Source

#: What every form of the network in integers is, in the words of a report.
FORMS: Final = {
    "msdf": "integers on digit-serial units, most significant digit first",
    "integer": "integers with power-of-two scales, the golden model",
    "fake": "values rounded as integers would be, at scales of any size, computed in floating point",
}

#: Keys that say how integers are made; they mean nothing for a build with a source of its own.
_INTEGERS: Final = (
    "hardware", "bits", "weight_bits", "per_channel", "observer", "percentile", "bias", "arithmetic", "delay", "digits",
    "outside", "calibration", "sample",
)  # fmt: skip
#: Keys of the units alone.
_UNITS: Final = ("arithmetic", "delay", "digits")


class VariantSpec(Part):
    """Another build: the same network in integers, or a model with a source of its own (an int8 ONNX file, say)."""

    source: Source | None = Field(None, description="another model with the same input and output; else the same one")
    hardware: Literal["msdf", "integer", "fake"] = Field("msdf", description="form of the network in integers")
    bits: Annotated[int, Field(ge=2, le=16)] = Field(8, description="width of activations")
    weight_bits: Annotated[int, Field(ge=2, le=16)] = Field(8, description="width of weights")
    per_channel: bool = Field(True, description="one exponent for each output channel's weights")
    observer: Literal["mse", "max", "percentile"] = Field("mse", description="how ranges are found")
    percentile: Annotated[float, Field(gt=50, le=100)] = Field(99.99, description="for the observer of that name")
    bias: Literal["preloaded", "serial"] = Field("preloaded", description="how a bias enters its unit")
    arithmetic: Literal["twos_complement", "merged"] = Field("twos_complement", description="of the units; exact ones")
    delay: Literal[1, 2] = Field(2, description="steps before the first digit")
    digits: Literal["full"] | int | dict[str, int] = Field(
        "full",
        description="full = as many as the output's format holds; -2 = two fewer in every convolution that rounds; "
        "{module path: -2} = in these",
    )
    outside: tuple[str, ...] = Field((), description="modules and operators that stay in floating point")
    calibration: Literal["calibration", "validation", "train", ""] = Field(
        "", description="data entry whose images give the ranges; empty = the first of these three that there is"
    )
    sample: Annotated[int, Field(ge=1, le=4096)] = Field(32, description="calibration images, drawn by seed")

    @model_validator(mode="before")
    @classmethod
    def _without_scalars(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("a variant is a mapping, e.g. {hardware: msdf, bits: 8} or {source: {onnx: int8.onnx}}")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> VariantSpec:
        given = self.model_fields_set
        if not given:
            raise ValueError("a variant says what it is, e.g. {hardware: msdf, bits: 8} or {source: {onnx: int8.onnx}}")
        strange = [name for name in _INTEGERS if name in given] if self.source is not None else []
        if strange:
            raise ValueError(f"a variant with a source of its own has no `{strange[0]}:`")
        strange = [name for name in _UNITS if name in given] if self.hardware != "msdf" else []
        if strange:
            raise ValueError(f"`{strange[0]}:` is for hardware: msdf, not for hardware: {self.hardware}")
        given_digits = self.digits if isinstance(self.digits, dict) else {"": self.digits}
        for path, count in given_digits.items():
            if count != "full" and count >= 0:
                raise ValueError(
                    "digits are full, or so many fewer than the output's format holds: -1, -2, ... (no unit emits "
                    f"more). Got: {f'{path}: ' if path else ''}{count}"
                )
        if self.arithmetic == "merged" and self.delay != 2:
            raise ValueError("a unit of arithmetic merged has delay 2")
        return self

    @property
    def fewer(self) -> int | dict[str, int]:
        """Digits that are left out: of all convolutions that round, or by module path."""
        if self.digits == "full":
            return 0
        return -self.digits if isinstance(self.digits, int) else {path: -count for path, count in self.digits.items()}

    def sentence(self) -> str:
        """What the build is, as a sentence for the report.

        >>> VariantSpec(digits=-2).sentence()
        'Integers on digit-serial units, most significant digit first: 8-bit activations, 8-bit weights, arithmetic \
twos_complement, 2 digits fewer than the outputs hold.'
        """
        if self.source is not None:
            weights = f" with weights {self.source.weights_file}" if self.source.weights_file else ""
            return f"Another build: {self.source.kind} {self.source.target}{weights}."
        words = [f"{self.bits}-bit activations, {self.weight_bits}-bit weights"]
        if self.hardware == "msdf":
            words.append(f"arithmetic {self.arithmetic}")
            if isinstance(self.fewer, dict):
                words.append("fewer digits in " + ", ".join(f"{path} (-{n})" for path, n in self.fewer.items()))
            elif self.fewer:
                digits = "digit" if self.fewer == 1 else "digits"
                words.append(f"{self.fewer} {digits} fewer than the outputs hold")
            else:
                words.append("all digits that the outputs hold")
        form = FORMS[self.hardware]
        return f"{form[0].upper()}{form[1:]}: {', '.join(words)}."
