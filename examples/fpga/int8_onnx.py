"""Writes the shipped compact U-Net as int8 ONNX by ONNX Runtime's own static quantiser, beside this file.

    python examples/fpga/int8_onnx.py                       # needs the extra `onnx`
    xaiseg audit examples/fpga/onnx.yaml --protocol hardware

Ranges come from 32 validation phantoms; onnx.yaml audits the file beside builds of xaiseg's own quantiser.
"""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

import xaiseg.zoo as zoo
from xaiseg.data.phantoms import PhantomSpec, phantom_case
from xaiseg.weights import read_weights

SIDE, IMAGES = 128, 32
OUT = Path(__file__).with_name("unet-compact-int8.onnx")


class Phantoms(CalibrationDataReader):
    """Validation phantoms, one at a time."""

    def __init__(self) -> None:
        spec = PhantomSpec(split="validation", size=(SIDE, SIDE))
        images = (phantom_case(spec, index)[0] for index in range(IMAGES))
        self._left = iter([{"x": (image.astype(np.float32) / 255)[None, None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image, None behind the last."""
        return next(self._left, None)


def main() -> None:
    logging.getLogger().setLevel(logging.ERROR)
    network = zoo.build("unet-compact", 1, 1)
    file = zoo.WEIGHTS / "unet-compact-phantom.safetensors"
    network.load_state_dict(read_weights(file, trust=False, where=str(file)))
    with TemporaryDirectory() as folder:
        floats, ready = Path(folder) / "float.onnx", Path(folder) / "ready.onnx"
        axes = {"x": {0: "batch"}, "y": {0: "batch"}}
        example = torch.zeros(1, 1, SIDE, SIDE)
        torch.onnx.export(
            network.eval(), (example,), str(floats), input_names=["x"], output_names=["y"], dynamic_axes=axes,
            dynamo=False,
        )  # fmt: skip
        quant_pre_process(str(floats), str(ready))  # folds batch normalisation
        quantize_static(
            str(ready), str(OUT), Phantoms(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    print(f"{OUT.name}: {OUT.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
