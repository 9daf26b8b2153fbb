"""The shapes that are measured: real networks, each with its number of uses as its weight in the geometric means."""

# ruff: noqa: RUF001 (the multiplication sign is meant)

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

BATCH_OPS = ("batch_norm", "batch_norm_backward", "batch_norm_inference")
GROUP_OPS = ("group_norm", "group_norm_backward")
OPS = BATCH_OPS + GROUP_OPS


@dataclass(frozen=True)
class Shape:
    """One tensor shape, how often its network uses it, and the ops that make sense on it."""

    dims: tuple[int, ...]
    count: int = 1
    ops: tuple[str, ...] = OPS

    @property
    def groups(self) -> int:
        """32, or the most that divides both 32 and the channels."""
        return math.gcd(32, self.dims[1])

    def __str__(self) -> str:
        return "×".join(map(str, self.dims))


def square(batch: int, channels: int, side: int, count: int = 1, ops: tuple[str, ...] = OPS) -> Shape:
    return Shape((batch, channels, side, side), count, ops)


def resnet50() -> Iterator[Shape]:
    """Every normalization of ResNet-50 at batch 32."""
    for channels, side, count in (
        *((64, 112, 1), (256, 56, 4), (64, 56, 6), (512, 28, 5), (128, 28, 8)),
        *((1024, 14, 7), (256, 14, 12), (2048, 7, 4), (512, 7, 6)),
    ):
        yield square(32, channels, side, count)


def densenet121() -> Iterator[Shape]:
    """DenseNet-121 at batch 64, batch norm only: odd sides (57, 29, 15) whose rows no vector divides.

    A block's first norms see a width that grows by 32 each; each third of them is measured at its middle width and
    counts for all. Its second norms all see 128 channels.
    """
    yield square(64, 64, 112, 1, BATCH_OPS)
    for side, first, last, layers in ((57, 64, 256, 6), (29, 128, 512, 12), (15, 256, 1024, 24), (8, 512, 1024, 16)):
        yield square(64, 128, side, layers, BATCH_OPS)
        widths = range(first, last + 1, 32)
        cut = [round(i * len(widths) / 3) for i in range(4)]
        for start, stop in pairwise(cut):
            yield square(64, widths[(start + stop - 1) // 2], side, stop - start, BATCH_OPS)


def groupnorm() -> Iterator[Shape]:
    """Group norm with 32 groups in diffusion models."""
    for batch, channels, side in (
        *((1, 128, 768), (1, 256, 384), (1, 512, 96), (1, 512, 192)),
        *((2, 320, 48), (2, 640, 24), (2, 960, 48), (2, 1280, 12), (2, 1920, 24), (2, 2560, 12)),
    ):
        yield square(batch, channels, side, 1, GROUP_OPS)


def small() -> Iterator[Shape]:
    """Small and odd: what a call costs when there is little to do."""
    for dims in ((2, 251, 28, 28), (8, 322, 16, 16), (12, 4, 8, 8), (1, 24, 14, 14), (256, 128), (32, 512)):
        yield Shape(dims)


SETS = {"resnet50": resnet50, "densenet121": densenet121, "groupnorm": groupnorm, "small": small}
