"""Four known segmenters on one small encoder, through segmentation-models-pytorch.

All four share MobileNetV2 (M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals
and Linear Bottlenecks", CVPR 2018, doi:10.1109/CVPR.2018.00474), so a comparison between them is about the decoder.
Weights are random: nothing is fetched. The names in their state dicts are those of segmentation-models-pytorch, so
weights also load there.
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn

from xaiseg.zoo import Card, zoo_model

ENCODER: Final = "mobilenet_v2"

#: What holds for all four.
_LICENCE: Final = "Apache-2.0; segmentation-models-pytorch MIT, its MobileNetV2 (torchvision) BSD-3-Clause"


def no_intrinsic(x: Tensor) -> dict[str, Tensor]:
    """These models expose no explanation of their own.

    >>> import torch
    >>> no_intrinsic(torch.zeros(1, 1, 32, 32))
    {}
    """
    return {}


@zoo_model(
    Card(
        name="unet",
        summary="a U-Net whose encoder is MobileNetV2",
        paper="Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, doi:10.1007/978-3-319-24574-4_28",
        parameters=3_225_865,
        multiple_of=32,
        licence=_LICENCE,
        source="smp.Unet of segmentation-models-pytorch",
        differs="MobileNetV2 instead of the plain encoder and a decoder of 64, 64, 48, 24 and 8 channels: 3.2 instead "
        "of 31 million parameters; nearest-neighbour doubling, batch normalisation and padded convolutions",
    )
)
def unet(channels: int, outputs: int) -> nn.Module:
    """Builds ``smp.Unet`` with random weights.

    >>> import torch
    >>> unet(1, 1).eval()(torch.zeros(1, 1, 32, 64)).shape
    torch.Size([1, 1, 32, 64])
    """
    return _smp("Unet", channels, outputs, decoder_channels=(64, 64, 48, 24, 8))


@zoo_model(
    Card(
        name="unetplusplus",
        summary="a U-Net++ (nested skip connections) whose encoder is MobileNetV2",
        paper="Zhou, Siddiquee, Tajbakhsh, Liang: UNet++, DLMIA 2018, doi:10.1007/978-3-030-00889-5_1",
        parameters=3_097_737,
        multiple_of=32,
        licence=_LICENCE,
        source="smp.UnetPlusPlus of segmentation-models-pytorch",
        differs="MobileNetV2 instead of the plain encoder and a decoder of 48, 48, 32, 24 and 8 channels: 3.1 instead "
        "of 9 million parameters; one output instead of deep supervision",
    )
)
def unetplusplus(channels: int, outputs: int) -> nn.Module:
    """Builds ``smp.UnetPlusPlus`` with random weights.

    >>> import torch
    >>> unetplusplus(1, 1).eval()(torch.zeros(1, 1, 32, 64)).shape
    torch.Size([1, 1, 32, 64])
    """
    return _smp("UnetPlusPlus", channels, outputs, decoder_channels=(48, 48, 32, 24, 8))


@zoo_model(
    Card(
        name="deeplabv3plus",
        summary="DeepLabV3+ (dilated spatial pyramid pooling) whose encoder is MobileNetV2",
        paper="Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution, ECCV 2018, "
        "doi:10.1007/978-3-030-01234-2_49",
        parameters=2_946_417,
        multiple_of=16,
        licence=_LICENCE,
        source="smp.DeepLabV3Plus of segmentation-models-pytorch",
        differs="MobileNetV2 instead of Xception and 96 instead of 256 channels: 2.9 million parameters; in training a "
        "batch has at least two images, because the pooled branch is batch-normalised",
    )
)
def deeplabv3plus(channels: int, outputs: int) -> nn.Module:
    """Builds ``smp.DeepLabV3Plus`` with random weights.

    >>> import torch
    >>> deeplabv3plus(1, 1).eval()(torch.zeros(1, 1, 32, 48)).shape
    torch.Size([1, 1, 32, 48])
    """
    return _smp("DeepLabV3Plus", channels, outputs, decoder_channels=96)


@zoo_model(
    Card(
        name="fpn",
        summary="a feature pyramid network whose encoder is MobileNetV2",
        paper="Lin, Dollar, Girshick, He, Hariharan, Belongie: Feature Pyramid Networks, CVPR 2017, "
        "doi:10.1109/CVPR.2017.106",
        parameters=2_813_569,
        multiple_of=32,
        licence=_LICENCE,
        source="smp.FPN of segmentation-models-pytorch",
        differs="MobileNetV2 instead of a ResNet, 128 instead of 256 channels in the pyramid and a segmentation branch "
        "of 64: 2.8 million parameters; semantic segmentation instead of detection",
    )
)
def fpn(channels: int, outputs: int) -> nn.Module:
    """Builds ``smp.FPN`` with random weights.

    >>> import torch
    >>> fpn(1, 1).eval()(torch.zeros(1, 1, 32, 64)).shape
    torch.Size([1, 1, 32, 64])
    """
    return _smp("FPN", channels, outputs, decoder_pyramid_channels=128, decoder_segmentation_channels=64)


def _smp(kind: str, channels: int, outputs: int, **options: Any) -> nn.Module:
    # Imported late: listing the zoo must not cost the seconds that this import takes.
    import segmentation_models_pytorch as smp

    module = getattr(smp, kind)(ENCODER, encoder_weights=None, in_channels=channels, classes=outputs, **options)
    for part in module.modules():
        # Activations and dropout; attribution methods hook them and need their inputs as they were.
        if hasattr(part, "inplace"):
            part.inplace = False
    # A module-level function and no wrapper: copies of the module keep it, and the names of the weights stay the
    # library's.
    module.intrinsic = no_intrinsic
    return module  # type: ignore[no-any-return]
