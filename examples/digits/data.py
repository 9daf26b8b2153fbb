"""Handwritten digits: scikit-learn's bundled 8x8 images, or the original MNIST files."""

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

GZIP_MAGIC = b"\x1f\x8b"
IDX_UBYTE = 0x08
SMALLEST_SIDE = 4  # the convolutional network halves it twice


class DataError(Exception):
    """The data cannot be read; the message says which file, what was expected and what was found."""


class Digits(NamedTuple):
    """Images are (N, 1, H, W) float32 in [0, 1]; labels are (N,) integers 0 to 9."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.train_images.shape[2:]

    def first(self, count: int | None) -> "Digits":
        """With only the first `count` training images (None: all of them)."""
        return self._replace(train_images=self.train_images[:count], train_labels=self.train_labels[:count])


def bundled_digits() -> Digits:
    """The 1797 images that come with scikit-learn (no network), one fifth of each class held out for the test."""
    from sklearn.datasets import load_digits  # here, because --mnist does without it
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    return Digits("scikit-learn digits", train_x, train_y, test_x, test_y)


def mnist(directory: Path) -> Digits:
    """The four original IDX files in `directory`, gzipped or not, named with a dash or a dot before `idx`."""
    if not directory.is_dir():
        raise DataError(f"--mnist must be a directory with the MNIST files, found {directory}")
    train, test = (_mnist_part(directory, part) for part in ("train", "t10k"))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"training and test images differ in shape: {train[0].shape[1:]} and {test[0].shape[1:]}")
    return Digits("MNIST", *train, *test)


def _mnist_part(directory: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images_path = _find(directory, f"{part}-images", "idx3-ubyte")
    labels_path = _find(directory, f"{part}-labels", "idx1-ubyte")
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise DataError(f"{images_path.name} has {len(images)} images, but {labels_path.name} has {len(labels)} labels")
    if len(images) == 0 or min(images.shape[1:]) < SMALLEST_SIDE:
        raise DataError(
            f"{images_path}: images must be {SMALLEST_SIDE} x {SMALLEST_SIDE} or larger, found {images.shape}"
        )
    if labels.max() > 9:
        raise DataError(f"{labels_path}: labels must be 0 to 9, found {labels.max()}")
    return (images / np.float32(255))[:, None], labels.astype(np.int64)


def _find(directory: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{separator}{kind}{suffix}" for separator in "-." for suffix in ("", ".gz")]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise DataError(f"{directory} must have one of {', '.join(names)}; found none of them")


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes: magic (0, 0, type, ndim), sizes as big-endian 32-bit integers, then the bytes."""
    try:
        content = path.read_bytes()
        if content.startswith(GZIP_MAGIC):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error

    magic, expected_magic = content[:4], bytes([0, 0, IDX_UBYTE, ndim])
    if magic != expected_magic:
        raise DataError(f"{path}: must start with {expected_magic.hex(' ')} (IDX), found {magic.hex(' ') or 'nothing'}")
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(f"{path}: the header must have {header} bytes, found {len(content)}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", ndim, offset=4))
    pixels = np.frombuffer(content, np.uint8, offset=header)
    if pixels.size != np.prod(shape):
        raise DataError(f"{path}: must have {np.prod(shape)} bytes for shape {shape}, found {pixels.size}")
    return pixels.reshape(shape)
