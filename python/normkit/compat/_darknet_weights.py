"""darknet's `.weights` files: a header, then each layer's arrays in the order of the `.cfg`, without names or sizes.

Everything is little-endian. Header: int32 major, minor, revision; then the number of images seen, 64 bits wide if
major·10 + minor >= 2 and both are below 1000, else 32 (`load_weights_upto` in darknet's parser.c). A convolutional
layer: biases (n); with `batch_normalize=1` scales, rolling mean and rolling variance (n each); weights (n, c / groups,
size, size); all float32.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

import normkit as nk
from normkit import _checks
from normkit.compat._errors import in_the_words_of

Array = NDArray[Any]
_FLOAT = np.dtype("<f4")
_PIECE = 2**24  # bytes read at once
_BATCH_NORM = ("scales", "rolling_mean", "rolling_variance")
_FOLDED = {
    "conv_weight": "weights",
    "conv_bias": "biases",
    "running_mean": "rolling_mean",
    "running_var": "rolling_variance",
    "weight": "scales",
    "bias": "biases",
}


class Header(NamedTuple):
    """The header of a `.weights` file.

    Attributes:
        major: of the format's version.
        minor: of the format's version.
        revision: of the format's version.
        seen: number of images seen in training.

    Example:
        >>> from normkit.compat.darknet import Header
        >>> Header()
        Header(major=0, minor=2, revision=0, seen=0)
    """

    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0


@dataclass(eq=False)
class Convolution:
    """A [convolutional] layer's arrays, with or without batch norm.

    Attributes:
        biases: (n,): of the batch norm if there is one, else of the convolution. With a batch norm, darknet's
            convolution has no bias of its own.
        weights: (n, c / groups, size, size).
        scales: (n,), or None without batch norm.
        rolling_mean: (n,), or None without batch norm.
        rolling_variance: (n,), or None without batch norm.
        groups: groups of the convolution; the file does not hold it.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.darknet import Convolution
        >>> Convolution(np.zeros(2), np.ones((2, 3, 1, 1))).batch_normalize
        False
    """

    biases: Array
    weights: Array
    scales: Array | None = None
    rolling_mean: Array | None = None
    rolling_variance: Array | None = None
    groups: int = 1

    @property
    def batch_normalize(self) -> bool:
        """Whether there is a batch norm (`batch_normalize=1` in the .cfg).

        Example:
            >>> import numpy as np
            >>> from normkit.compat.darknet import Convolution
            >>> Convolution(np.zeros(4), np.ones((4, 3, 1, 1)), *np.ones((3, 4))).batch_normalize
            True
        """
        return self.scales is not None

    def fold(self, *, eps: float, eps_outside: bool = False) -> Convolution:
        """Return the convolution with its batch norm folded into it (`normkit.fold_conv_bn`).

        weights · s and biases - rolling_mean · s, with s = scales / sqrt(rolling_variance + eps), per filter.

        Args:
            eps: required, as it is not in the file: 1e-5 in darknet's own folding.
            eps_outside: s = scales / (sqrt(rolling_variance) + eps), eps 1e-6: what darknet's CPU inference does.

        Returns:
            A new `Convolution` without batch norm (`batch_normalize=0` in the .cfg); itself if it has none.

        Raises:
            ValueError: shapes do not fit, or a rolling variance is negative.

        Example:
            >>> import numpy as np
            >>> from normkit.compat.darknet import Convolution
            >>> one = np.ones(1, np.float32)
            >>> layer = Convolution(one, np.ones((1, 1, 1, 1), np.float32), 6 * one, 5 * one, 4 * one)
            >>> folded = layer.fold(eps=0.0)
            >>> folded.weights.item(), folded.biases.item()
            (3.0, -14.0)
        """
        function = "Convolution.fold"
        _checks.flag(function, "eps_outside", eps_outside)
        eps = _checks.number(function, "eps", eps)
        if self.scales is None or self.rolling_mean is None or self.rolling_variance is None:
            return self
        var = self.rolling_variance
        if eps_outside:
            var, eps = rooted(function, "rolling_variance", var, eps), 0.0
        with in_the_words_of(function, _FOLDED):
            weights, biases = nk.fold_conv_bn(
                self.weights, None, self.rolling_mean, var, self.scales, self.biases, eps=eps, groups=self.groups
            )
        return Convolution(biases, weights, groups=self.groups)

    def batch_norm(self) -> dict[str, Array]:
        """Return the batch norm's arrays by darknet's names, as `normkit.convert.from_darknet` takes them.

        Returns:
            scales, biases, rolling_mean, rolling_variance; the arrays themselves, not copies.

        Raises:
            ValueError: there is no batch norm.

        Example:
            >>> import numpy as np
            >>> from normkit.compat.darknet import Convolution
            >>> from normkit.convert import from_darknet
            >>> layer = Convolution(np.zeros(4), np.ones((4, 3, 1, 1)), *np.ones((3, 4)))
            >>> sorted(from_darknet(layer.batch_norm(), eps=1e-5).state)
            ['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
        """
        if self.scales is None or self.rolling_mean is None or self.rolling_variance is None:
            raise ValueError("Convolution.batch_norm: `scales` must be there (batch_normalize=1), found None")
        return {
            "scales": self.scales,
            "biases": self.biases,
            "rolling_mean": self.rolling_mean,
            "rolling_variance": self.rolling_variance,
        }


class Weights(NamedTuple):
    """A whole `.weights` file.

    Attributes:
        header: version and number of images seen.
        layers: in the order of the file.

    Example:
        >>> from normkit.compat.darknet import Header, Weights
        >>> Weights(Header(), []).header.minor
        2
    """

    header: Header
    layers: list[Convolution]


def read_header(file: BinaryIO) -> Header:
    """Read the header at the file's position.

    Args:
        file: open for reading, binary.

    Returns:
        `Header`; the file is then at the first layer.

    Raises:
        ValueError: the file ends too early, or a version number is negative.

    Example:
        >>> import io
        >>> from normkit.compat.darknet import read_header
        >>> read_header(io.BytesIO(bytes([0, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 64, 1, 0, 0, 0, 0, 0, 0])))
        Header(major=0, minor=2, revision=5, seen=320)
    """
    major, minor, revision = struct.unpack("<iii", _read(file, "read_header", 12, "major, minor, revision"))
    if min(major, minor, revision) < 0:
        expected = "must begin with a version of numbers >= 0"
        raise ValueError(f"read_header: `file` {expected}, found {major}.{minor}.{revision}")
    form = _seen_form(major, minor)
    (seen,) = struct.unpack(form, _read(file, "read_header", struct.calcsize(form), "images seen"))
    return Header(major, minor, revision, seen)


def write_header(file: BinaryIO, header: Header) -> None:
    """Write a header, `seen` 64 or 32 bits wide as its version wants it.

    Args:
        file: open for writing, binary.
        header: what to write.

    Raises:
        ValueError: a number does not fit its width; nothing is written then.

    Example:
        >>> import io
        >>> from normkit.compat.darknet import Header, write_header
        >>> file = io.BytesIO()
        >>> write_header(file, Header(0, 1, 0, seen=320))
        >>> len(file.getvalue())
        16
    """
    packed = _packed("write_header", header)
    _check_writeable("write_header", file)
    file.write(packed)


def read_convolutional(
    file: BinaryIO,
    filters: int,
    channels: int,
    size: int,
    *,
    groups: int = 1,
    batch_normalize: bool = True,
) -> Convolution:
    """Read a [convolutional] layer at the file's position.

    Args:
        file: open for reading, binary.
        filters: output channels n.
        channels: input channels c.
        size: of the square kernel.
        groups: divides both.
        batch_normalize: as in the .cfg.

    Returns:
        `Convolution` with float32 arrays; the file is then at the next layer.

    Raises:
        ValueError: the file ends too early (how many bytes are missing, of which array, is said), or a number is out of
            its range.

    Example:
        >>> import io
        >>> import numpy as np
        >>> from normkit.compat.darknet import read_convolutional
        >>> file = io.BytesIO(np.arange(10, dtype="<f4").tobytes())
        >>> layer = read_convolutional(file, filters=2, channels=1, size=1)
        >>> layer.rolling_variance.tolist(), layer.weights.ravel().tolist()
        ([6.0, 7.0], [8.0, 9.0])
    """
    function = "read_convolutional"
    filters, channels, size, groups = (
        _checks.integer(function, name, value, minimum=1)
        for name, value in (("filters", filters), ("channels", channels), ("size", size), ("groups", groups))
    )
    if not isinstance(batch_normalize, (bool, np.bool_)):  # a .cfg says 0 or 1
        batch_normalize = bool(_checks.zero_or_one(function, "batch_normalize", batch_normalize))
    if filters % groups or channels % groups:
        expected = f"must divide filters, {filters}, and channels, {channels}"
        raise ValueError(f"{function}: `groups` {expected}, found {groups}")
    biases = _floats(file, function, "biases", (filters,))
    batch_norm = {name: _floats(file, function, name, (filters,)) for name in (_BATCH_NORM if batch_normalize else ())}
    weights = _floats(file, function, "weights", (filters, channels // groups, size, size))
    return Convolution(biases, weights, **batch_norm, groups=groups)


def write_convolutional(file: BinaryIO, layer: Convolution) -> None:
    """Write a [convolutional] layer, as float32.

    Args:
        file: open for writing, binary.
        layer: what to write.

    Raises:
        ValueError: the shapes do not fit each other, or some of the batch norm's arrays are missing; nothing is written
            then.

    Example:
        >>> import io
        >>> import numpy as np
        >>> from normkit.compat.darknet import Convolution, write_convolutional
        >>> file = io.BytesIO()
        >>> write_convolutional(file, Convolution(np.zeros(2), np.ones((2, 1, 3, 3))))
        >>> len(file.getvalue()) // 4
        20
    """
    arrays = _checked("write_convolutional", layer)
    _check_writeable("write_convolutional", file)
    _write(file, arrays)


def read_weights(path: str | os.PathLike[str], layers: Iterable[Mapping[str, Any]]) -> Weights:
    """Read a `.weights` file whose layers with weights are all [convolutional].

    Args:
        path: of the file.
        layers: for each the arguments of `read_convolutional` after `file`: filters, channels, size, groups and
            batch_normalize.

    Returns:
        `Weights`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is shorter or longer than the layers, or a number is out of its range.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from normkit.compat.darknet import Convolution, Header, read_weights, write_weights
        >>> layer = Convolution(np.zeros(8), np.ones((8, 3, 3, 3)), *np.ones((3, 8)))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = pathlib.Path(directory) / "net.weights"
        ...     write_weights(path, Header(seen=64), [layer])
        ...     header, layers = read_weights(path, [{"filters": 8, "channels": 3, "size": 3}])
        ...     folded = [layer.fold(eps=1e-5) for layer in layers]
        ...     write_weights(path, header, folded)
        >>> header.seen, folded[0].batch_normalize
        (64, False)
    """
    _check_path("read_weights", path)
    described = [
        _checks.mapping("read_weights", "layers", layer, "argument of read_convolutional → value")
        for layer in _checks.iterable("read_weights", "layers", layers, "mappings")
    ]
    with open(path, "rb") as file:
        header = read_header(file)
        found = [read_convolutional(file, **layer) for layer in described]
        position = file.tell()
        left = file.seek(0, os.SEEK_END) - position
    if left:
        expected = f"must end after {len(found)} layers, at byte {position}"
        raise ValueError(f"read_weights: `path` {expected}, found {left} bytes more")
    return Weights(header, found)


def write_weights(path: str | os.PathLike[str], header: Header, layers: Iterable[Convolution]) -> None:
    """Write a `.weights` file of [convolutional] layers.

    Args:
        path: of the file; overwritten.
        header: written first.
        layers: written in this order.

    Raises:
        OSError: the file cannot be written.
        ValueError: something does not fit; the file is not touched then.

    Example:
        >>> import pathlib, tempfile
        >>> from normkit.compat.darknet import Header, write_weights
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = pathlib.Path(directory) / "net.weights"
        ...     write_weights(path, Header(), [])
        ...     path.stat().st_size
        20
    """
    _check_path("write_weights", path)
    layers = _checks.iterable("write_weights", "layers", layers, "Convolution")
    arrays = [array for layer in layers for array in _checked("write_weights", layer)]
    packed = _packed("write_weights", header)
    with open(path, "wb") as file:
        file.write(packed)
        _write(file, arrays)


def _check_path(function: str, path: str | os.PathLike[str]) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise _checks.type_error(function, "path", "must be a path", path)


def rooted(function: str, argument: str, var: Array, eps: float) -> Array:
    """(sqrt(var) + eps)²: the variance whose root with eps 0 is sqrt(var) + eps."""
    if not (math.isfinite(eps) and eps >= 0):  # the square would hide it
        raise ValueError(f"{function}: `eps` must be finite and >= 0, found {eps}")
    if _checks.array(function, argument, var).dtype.kind != "f":
        raise TypeError(f"{function}: `{argument}` must be a float array, found dtype {var.dtype}")
    if np.any(var < 0):
        raise ValueError(f"{function}: `{argument}` must be >= 0, found {var.min()}")
    return (np.sqrt(var.astype(np.float64)) + eps) ** 2


def _seen_form(major: int, minor: int) -> str:
    return "<Q" if major * 10 + minor >= 2 and major < 1000 and minor < 1000 else "<I"


def _packed(function: str, header: Header) -> bytes:
    _checks.instance(function, "header", header, Header)
    for name, value in zip(header._fields, header, strict=True):
        _checks.integer(function, f"header.{name}", value)
    if min(header[:3]) >= 0:
        try:
            return struct.pack("<iii", *header[:3]) + struct.pack(_seen_form(header.major, header.minor), header.seen)
        except struct.error:
            pass
    expected = "must have numbers >= 0 that fit 32 bits (`seen` 64 from version 0.2 on)"
    raise ValueError(f"{function}: `header` {expected}, found {header}")


def _read(file: BinaryIO, function: str, count: int, what: str) -> bytes:
    data = _read_up_to(file, function, count)
    if len(data) < count:
        position = file.tell() - len(data) if file.seekable() else "?"
        expected = f"must have {count} bytes at byte {position} ({what})"
        raise ValueError(f"{function}: `file` {expected}, found {len(data)}")
    return data


def _read_up_to(file: BinaryIO, function: str, count: int) -> bytes:
    """In pieces, so that a wrong size is not a huge allocation."""
    pieces: list[bytes] = []
    while count > 0:
        try:
            piece = file.read(min(count, _PIECE))
            if not isinstance(piece, bytes):
                raise TypeError
        except (AttributeError, TypeError):
            raise _checks.type_error(function, "file", "must be a binary file open for reading", file) from None
        if not piece:
            break
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _floats(file: BinaryIO, function: str, name: str, shape: tuple[int, ...]) -> Array:
    data = _read(file, function, math.prod(shape) * _FLOAT.itemsize, f"{name}, float32 {shape}")
    # A copy: what frombuffer gives is read-only.
    return np.frombuffer(data, _FLOAT).reshape(shape).astype(np.float32)


def _checked(function: str, layer: Convolution) -> list[Array]:
    """The layer's arrays in the file's order."""
    _checks.instance(function, "layer", layer, Convolution)
    batch_norm = {name: getattr(layer, name) for name in _BATCH_NORM}
    missing = [name for name, value in batch_norm.items() if value is None]
    if missing and len(missing) < len(batch_norm):
        expected = f"must have all of {', '.join(_BATCH_NORM)} or none"
        raise ValueError(f"{function}: `layer` {expected}, found {', '.join(missing)} missing")
    n = layer.weights.shape[0] if layer.weights.ndim == 4 else -1
    if n < 0 or layer.weights.shape[2] != layer.weights.shape[3]:
        expected = "must have weights (n, c / groups, size, size)"
        raise ValueError(f"{function}: `layer` {expected}, found shape {layer.weights.shape}")
    vectors = {"biases": layer.biases} | ({} if missing else batch_norm)
    for name, value in vectors.items():
        if value.shape != (n,):
            raise ValueError(f"{function}: `layer` must have {name} of shape ({n},), found shape {value.shape}")
    return [*vectors.values(), layer.weights]


def _check_writeable(function: str, file: BinaryIO) -> None:
    try:
        file.write(b"")
    except (AttributeError, TypeError, OSError):  # nothing, a text file, one that is open for reading
        raise _checks.type_error(function, "file", "must be a binary file open for writing", file) from None


def _write(file: BinaryIO, arrays: Iterable[Array]) -> None:
    for array in arrays:
        file.write(np.ascontiguousarray(array, _FLOAT).tobytes())
