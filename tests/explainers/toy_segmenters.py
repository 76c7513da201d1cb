"""Tiny segmenters whose explanations are known in closed form."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaiseg.subject import Segmenter, SubjectInfo, Threshold

WHITE_BOX = frozenset({"scores", "forward", "gradients", "activations", "weights"})


class ToySegmenter(Segmenter):
    """Wraps a network (B, C, H, W) -> (B, 1 or K, H, W) that works on the image's own grid."""

    def __init__(self, network, *, channels=1, classes=("background", "lesion"), offers=WHITE_BOX, threshold=0.5):
        self.network = network
        self.info = SubjectInfo("toy", classes, channels, threshold=Threshold(threshold), offers=offers)

    @property
    def module(self):
        return self.network if "activations" in self.info.offers else None

    def forward(self, batch: Tensor) -> Tensor:
        logits = self.network(batch)
        return torch.cat((torch.zeros_like(logits), logits), dim=1) if logits.shape[1] == 1 else logits

    def predict(self, images, *, batch_size=8):
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                found += list(self.forward(torch.stack(list(images[start : start + batch_size]))))
        return found


class BoxFilter(nn.Module):
    """Logit = mean of the pixels within ``radius`` (a square), minus ``shift``."""

    def __init__(self, radius, shift=0.0):
        super().__init__()
        side = 2 * radius + 1
        self.filter = nn.Conv2d(1, 1, side, padding=radius)
        nn.init.constant_(self.filter.weight, 1.0 / side**2)
        nn.init.constant_(self.filter.bias, -shift)

    def forward(self, x):
        return self.filter(x)


class PixelNetwork(nn.Module):
    """A 3 x 3 convolution, a ReLU and a 1 x 1 head."""

    def __init__(self, channels=1, features=4):
        super().__init__()
        self.features = nn.Conv2d(channels, features, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Conv2d(features, 1, 1)

    def forward(self, x):
        return self.head(self.relu(self.features(x)))


class SmallUNet(nn.Module):
    """Two levels with a skip, batch normalisation and ReLU in place, as users' networks have them."""

    def __init__(self, channels=1, outputs=1):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.bottom = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.fuse = nn.Conv2d(14, 6, 3, padding=1)
        self.head = nn.Conv2d(6, outputs, 1)

    def forward(self, x):
        skip = self.down(x)
        deep = self.bottom(self.pool(skip))
        deep = F.interpolate(deep, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(torch.relu(self.fuse(torch.cat((skip, deep), dim=1))))


class Linear(nn.Module):
    """Logit of every pixel = the same weighted sum of all pixels of the image."""

    def __init__(self, weights: Tensor):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x):
        total = (x * self.weights).sum(dim=(1, 2, 3), keepdim=True)
        return total.expand(-1, 1, *x.shape[-2:])


def bright_square(height=24, width=32, top=8, left=10, side=8, channels=1):
    """An image (C, H, W) of small noise with a bright square."""
    image = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(5)) * 0.2
    image[:, top : top + side, left : left + side] += 0.7
    return image


def small_unet(seed=0, **options):
    torch.manual_seed(seed)
    return ToySegmenter(SmallUNet(**options).eval(), channels=options.get("channels", 1))
