"""The shipped compact U-Net, quantised by Brevitas; a builder for brevitas.yaml. It needs `pip install brevitas`.

Brevitas is no part of xaiseg and of none of its extras. Ranges come from 32 validation phantoms.
"""

from __future__ import annotations

import numpy as np
import torch
from brevitas.graph.calibrate import calibration_mode
from brevitas.graph.quantize import preprocess_for_quantize, quantize
from torch import nn

import xaiseg.zoo as zoo
from xaiseg.data.phantoms import PhantomSpec, phantom_case
from xaiseg.weights import read_weights

SIDE, IMAGES = 128, 32


def build() -> nn.Module:
    """8-bit weights and activations by Brevitas' own defaults, batch normalisation folded."""
    network = zoo.build("unet-compact", 1, 1).eval()
    file = zoo.WEIGHTS / "unet-compact-phantom.safetensors"
    network.load_state_dict(read_weights(file, trust=False, where=str(file)))
    spec = PhantomSpec(split="validation", size=(SIDE, SIDE))
    images = [phantom_case(spec, index)[0].astype(np.float32) / 255 for index in range(IMAGES)]
    batch = torch.as_tensor(np.stack(images))[:, None]
    quantised = quantize(preprocess_for_quantize(network))
    with torch.no_grad(), calibration_mode(quantised):
        quantised(batch)
    return quantised.eval()
