"""Cells, boxes and objects for the tests of the detector."""

import torch


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both, 1e-6)


def grid(side=64):
    cells = [(8 * c + 4, 8 * r + 4, 8) for r in range(side // 8) for c in range(side // 8)]
    cells += [(16 * c + 8, 16 * r + 8, 16) for r in range(side // 16) for c in range(side // 16)]
    held = torch.tensor(cells, dtype=torch.float32)
    return held[:, :2], held[:, 2]


def problem(seed, objects=5, classes=3, batch=2):
    generator = torch.Generator().manual_seed(seed)
    centres, strides = grid()
    middle = torch.rand(batch, objects, 2, generator=generator) * 64
    half = 3 + torch.rand(batch, objects, 2, generator=generator) * 14
    truth = torch.cat((middle - half, middle + half), dim=2)
    labels = torch.randint(0, classes, (batch, objects), generator=generator).float()
    labels[0, 1], labels[1, 0], labels[1, 3] = -1, 255, 255
    moved = centres + torch.randn(batch, len(centres), 2, generator=generator) * 4
    size = 4 + torch.rand(batch, len(centres), 2, generator=generator) * 14
    logits = torch.randn(batch, len(centres), classes, generator=generator) * 2
    return logits, torch.cat((moved - size, moved + size), dim=2), centres, strides, truth, labels
