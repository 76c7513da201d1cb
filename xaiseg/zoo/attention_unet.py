"""Attention U-Net: a U-Net whose skip connections pass gates that show where the decoder looked.

Paper: O. Oktay, J. Schlemper, L. Le Folgoc and others, "Attention U-Net: Learning Where to Look for the Pancreas", MIDL
2018, arXiv:1804.03999. At every level the decoder's features decide, pixel by pixel, how much of the encoder's features
is let through. The network is MONAI's; here are its widths and the way to read the gates.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from xaiseg.errors import UsageError
from xaiseg.zoo import Card, zoo_model

#: Channels from the full grid to a sixteenth of it. Few at the full grid, where they cost most.
WIDTHS: Final = (8, 24, 64, 160, 320)


class AttentionUNet(nn.Module):
    """MONAI's ``AttentionUnet`` for images, with its gates exposed.

    Args:
        channels: input channels.
        outputs: output channels; 1 = one logit for a binary task.
        widths: channels a level, from the full grid to the coarsest.

    Raises:
        UsageError: MONAI is not installed.

    >>> AttentionUNet(1, 1, widths=(4, 8, 8)).eval()(torch.zeros(2, 1, 32, 48)).shape
    torch.Size([2, 1, 32, 48])
    """

    def __init__(self, channels: int, outputs: int, *, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        try:
            from monai.networks.nets import AttentionUnet
        except ImportError as error:
            what = f"attention-unet needs MONAI, which cannot be imported: {error}"
            raise UsageError(what, where="zoo", then='Run pip install "xaiseg[zoo]"') from error
        strides = (2,) * (len(widths) - 1)
        self.network = AttentionUnet(2, in_channels=channels, out_channels=outputs, channels=widths, strides=strides)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, outputs, H, W) of images (B, channels, H, W); H and W are multiples of 16."""
        return self.network(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def intrinsic(self, x: Tensor) -> dict[str, Tensor]:
        """Where the gates let the encoder's features through; call it in eval mode.

        Args:
            x: images (B, channels, H, W).

        Returns:
            ``attention_1`` (B, 1, H, W) to ``attention_4`` (B, 1, H / 8, W / 8), from the finest gate to the coarsest,
            in [0, 1]; 1 = passes unchanged.
        """
        answers: list[Tensor] = []

        def keep(_module: nn.Module, _given: tuple[Tensor, ...], answer: Tensor) -> None:
            answers.append(answer)

        hooks = [gate.register_forward_hook(keep) for gate in self._gates()]
        try:
            self(x)
        finally:
            for hook in hooks:
                hook.remove()
        # The coarsest gate answers first.
        return {f"attention_{number}": answer for number, answer in enumerate(reversed(answers), start=1)}

    def _gates(self) -> list[nn.Module]:
        """The parts that answer with a gate's coefficients."""
        blocks = [module for module in self.modules() if type(module).__name__ == "AttentionBlock"]
        return [block.get_submodule("psi") for block in blocks]


@zoo_model(
    Card(
        name="attention-unet",
        summary="an attention U-Net whose gates show where the decoder looked",
        paper="Oktay and others: Attention U-Net, MIDL 2018, arXiv:1804.03999",
        parameters=2_913_505,
        multiple_of=16,
        licence="Apache-2.0; MONAI Apache-2.0",
        source='AttentionUnet of MONAI, which pip install "xaiseg[zoo]" adds',
        differs="two dimensions instead of three; 8 to 320 channels, so that it trains on a processor; one output "
        "instead of deep supervision; MONAI lets the decoder's upsampled features steer the gates, halves the grid by "
        "strides instead of pooling and joins with instance normalisation and PReLU",
    )
)
def attention_unet(channels: int, outputs: int) -> nn.Module:
    """Builds :class:`AttentionUNet` with random weights."""
    return AttentionUNet(channels, outputs)
