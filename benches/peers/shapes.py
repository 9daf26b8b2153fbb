"""The shapes that are measured: real networks, each with its number of uses as its weight in the geometric means."""

# ruff: noqa: RUF001, RUF002 (the multiplication sign is meant)

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Shape:
    """One tensor shape, and how often its network uses it."""

    dims: tuple[int, ...]
    count: int = 1
    parts: tuple[tuple[int, ...], ...] = ()  # many arrays in one, which a call takes one by one

    @property
    def groups(self) -> int:
        """32, or the most that divides both 32 and the channels."""
        return math.gcd(32, (*self.dims, 1)[1])

    def __str__(self) -> str:
        return f"{len(self.parts)} weights" if self.parts else "×".join(map(str, self.dims))


def square(batch: int, channels: int, side: int, count: int = 1) -> Shape:
    return Shape((batch, channels, side, side), count)


def resnet50() -> Iterator[Shape]:
    """Every normalization of ResNet-50 at batch 32."""
    for channels, side, count in (
        *((64, 112, 1), (256, 56, 4), (64, 56, 6), (512, 28, 5), (128, 28, 8)),
        *((1024, 14, 7), (256, 14, 12), (2048, 7, 4), (512, 7, 6)),
    ):
        yield square(32, channels, side, count)


def resnet50_three() -> Iterator[Shape]:
    """Long, middle and short rows of ResNet-50: for variants that would take too long on all of it."""
    for channels, side in ((64, 56), (512, 28), (2048, 7)):
        yield square(32, channels, side)


def residuals() -> Iterator[Shape]:
    """Where ResNet-50 adds and rectifies after a norm: the ends of its blocks."""
    for channels, side, count in ((256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3)):
        yield square(32, channels, side, count)


def densenet121() -> Iterator[Shape]:
    """DenseNet-121 at batch 64: odd sides (57, 29, 15) whose rows no vector divides.

    A block's first norms see a width that grows by 32 each; each third of them is measured at its middle width and
    counts for all. Its second norms all see 128 channels.
    """
    yield square(64, 64, 112)
    for side, first, last, layers in ((57, 64, 256, 6), (29, 128, 512, 12), (15, 256, 1024, 24), (8, 512, 1024, 16)):
        yield square(64, 128, side, layers)
        widths = range(first, last + 1, 32)
        cut = [round(i * len(widths) / 3) for i in range(4)]
        for start, stop in pairwise(cut):
            yield square(64, widths[(start + stop - 1) // 2], side, stop - start)


def groupnorm() -> Iterator[Shape]:
    """Group norm with 32 groups in diffusion models."""
    for batch, channels, side in (
        *((1, 128, 768), (1, 256, 384), (1, 512, 96), (1, 512, 192)),
        *((2, 320, 48), (2, 640, 24), (2, 960, 48), (2, 1280, 12), (2, 1920, 24), (2, 2560, 12)),
    ):
        yield square(batch, channels, side)


def small() -> Iterator[Shape]:
    """Small and odd: what a call costs when there is little to do."""
    for dims in ((2, 251, 28, 28), (8, 322, 16, 16), (12, 4, 8, 8), (1, 24, 14, 14), (256, 128), (32, 512)):
        yield Shape(dims)


def mlp() -> Iterator[Shape]:
    """Features of dense layers, (N, C)."""
    for dims in ((1024, 512), (512, 4096), (16384, 256)):
        yield Shape(dims)


def rows() -> Iterator[Shape]:
    """Tokens × features of transformers: of a sentence, of a batch, and of a hidden layer."""
    for dims in ((256, 768), (128, 1024), (1920, 512), (5120, 1024), (8192, 1024), (4096, 3072)):
        yield Shape(dims)


def layouts() -> Iterator[Shape]:
    """The same bytes in 64 channels, as (N, C), and in one and three channels."""
    for dims in ((32, 64, 56, 56), (32 * 56 * 56, 64), (32, 1, 448, 448), (32, 3, 259, 259)):
        yield Shape(dims)


def tiny() -> Iterator[Shape]:
    """What a call costs from Python."""
    for dims in ((8, 32, 8, 8), (32, 64)):
        yield Shape(dims)


def nothing() -> Iterator[Shape]:
    """What a call costs without any work."""
    yield Shape((2, 1))


def in_cache() -> Iterator[Shape]:
    """Large enough for threads, small enough for a last-level cache, with all that a backward touches."""
    for dims in ((32, 64, 28, 28), (32, 256, 14, 14), (16, 64, 28, 28)):
        yield Shape(dims)


def styletransfer() -> Iterator[Shape]:
    """The instance norms of a network for fast style transfer, four pictures of 256×256."""
    for channels, side, count in ((32, 256, 2), (64, 128, 2), (128, 64, 11)):
        yield square(4, channels, side, count)


def adain() -> Iterator[Shape]:
    """Features of VGG's relu4_1: eight pictures of 256×256, one of 512×512."""
    for batch, side in ((8, 32), (1, 64)):
        yield square(batch, 512, side)


def weights() -> Iterator[Shape]:
    """ResNet-50's first, largest and longest convolutions and its linear layer."""
    for dims in ((64, 3, 7, 7), (512, 512, 3, 3), (2048, 512, 1, 1), (1000, 2048)):
        yield Shape(dims)


def convolutions() -> Iterator[Shape]:
    """All weights of ResNet-50's convolutions, as one shape."""
    parts, wide = [(64, 3, 7, 7)], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            parts += [(width, wide, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            parts += [(4 * width, wide, 1, 1)] * (block == 0)
            wide = 4 * width
    yield Shape((sum(map(math.prod, parts)),), parts=tuple(parts))


SETS = {"resnet50": resnet50, "densenet121": densenet121, "groupnorm": groupnorm, "small": small, "mlp": mlp}
SETS |= {"resnet50-three": resnet50_three, "residuals": residuals, "rows": rows}
SETS |= {"layouts": layouts, "tiny": tiny, "nothing": nothing, "in-cache": in_cache}
SETS |= {"styletransfer": styletransfer, "adain": adain, "weights": weights, "convolutions": convolutions}
