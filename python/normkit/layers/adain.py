"""Adaptive instance normalization."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from normkit._gradients import AdaptiveInstanceNormGradients
from normkit._normkit import adaptive_instance_norm, adaptive_instance_norm_backward
from normkit.layers._module import Module


class AdaptiveInstanceNorm(Module):
    """Adaptive instance normalization (Huang & Belongie 2017): content with the mean and deviation of style.

    y = (content - mean_c) / sigma_c · sigma_s + mean_s with sigma = sqrt(var(ddof) + eps), all per sample and channel.
    It has no parameters, hence no channels to declare; `params`, `grads` and the state are empty. The same in training
    and eval mode.

    Args:
        eps: added to the variances; finite and >= 0.
        ddof: 0 for biased variances, 1 for unbiased ones.
        axis: the axis of the channels: 1 for (N, C, *spatial), -1 for (N, *spatial, C).

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has the wrong type.

    Example:
        >>> import numpy as np
        >>> from normkit import AdaptiveInstanceNorm
        >>> layer = AdaptiveInstanceNorm()
        >>> content = np.array([[[1, 3], [10, 30]]], np.float32)  # (N, C, positions)
        >>> style = np.array([[[5, 5, 9, 9], [1, 3, 1, 3]]], np.float32)  # positions of its own
        >>> layer(content, style).round(3).tolist()
        [[[5.0, 9.0], [1.0, 3.0]]]
        >>> dcontent, dstyle = layer.backward(np.ones_like(content))
        >>> dstyle.tolist()
        [[[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]]
    """

    _shown = ("eps", "ddof", "axis")

    def __init__(self, *, eps: float = 1e-5, ddof: int = 0, axis: int = 1) -> None:
        """See the class."""
        super().__init__()
        self.eps = self._real("eps", eps)
        self.ddof = self._zero_or_one("ddof", ddof)
        self.axis = self._integer("axis", axis)

    def __call__(self, content: NDArray[Any], style: NDArray[Any], *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Normalize `content` by the statistics of `style` and remember what `backward` needs.

        The cache refers to both (no copies): leave them as they are until `backward`.

        Args:
            content: array with its channels on `axis`; any float dtype.
            style: array of the same samples and channels, with any positions; any float dtype.
            out: array of the shape and dtype of `content` to write to.

        Returns:
            Array of the shape, dtype and memory layout of `content` (`out` if that was given).

        Raises:
            ValueError: `style` or `out` does not fit `content`, or there are too few elements for statistics.
            TypeError: an input is not a float array.
        """
        y, self._cache = adaptive_instance_norm(content, style, eps=self.eps, ddof=self.ddof, axis=self.axis, out=out)
        return y

    def backward(
        self, dy: NDArray[Any], *, accumulate: bool = False, out: NDArray[Any] | None = None
    ) -> AdaptiveInstanceNormGradients:
        """Return the gradients of the last content and style.

        Args:
            dy: gradient of the last output, of its shape; any float dtype.
            accumulate: as for all layers; without parameters there is nothing to add to.
            out: array of the shape and dtype of the last content to write its gradient to; may be `dy` itself.

        Returns:
            Named tuple `(dcontent, dstyle)`, arrays of the shape, dtype and memory layout of their inputs.

        Raises:
            RuntimeError: there was no forward pass.
            ValueError: the shape of `dy` or `out` does not fit.
            TypeError: `dy` is not a float array.
        """
        self._flag("accumulate", accumulate)
        return adaptive_instance_norm_backward(dy, self._last_cache(), out=out)
