"""State and arguments of a norm between PyTorch, Keras, Flax, ONNX and darknet, each in its own convention.

normkit's convention is PyTorch's: `weight`, `bias`, `running_mean`, `running_var`, `num_batches_tracked`; `momentum` is
the share of the *new* batch; `running_var_ddof=1`. What the others do (`CONVENTIONS` holds this table):

========  =====================================  ==========================  ===========  ============  ====
library   names                                  momentum                    eps          running var   axis
========  =====================================  ==========================  ===========  ============  ====
pytorch   weight bias running_mean running_var   share of the new, 0.1       1e-5         unbiased (1)  1
keras     gamma beta moving_mean                 share of the old, 0.99      1e-3         biased (0)    -1
          moving_variance
flax      scale bias mean var                    share of the old, 0.99      1e-5         biased (0)    -1
onnx      scale B input_mean input_var           share of the old, 0.9       1e-5         biased (0)    1
darknet   scales biases rolling_mean             share of the old, 0.99      1e-5         unbiased (1)  1
          rolling_variance
========  =====================================  ==========================  ===========  ============  ====

`from_<library>` gives normkit's state and options, `to_<library>` the library's; the options of one are the keywords of
the other, so that a round trip is `from_keras(s.state, **s.options)` with `s = to_keras(...)`. Layers without running
statistics (layer norm, group norm) go the same way: then only names, eps and axis count.

Three things that a checkpoint does not hold, and what is done about them:

- *eps.* Required by every function here: a wrong one costs accuracy, silently.
- *momentum.* Has the library's default; it matters only if training goes on.
- *biased or unbiased.* At inference the running variance is used as it is, so numbers are not changed unless `count`
  (elements per channel in a training batch, N·H·W) is given, which turns one convention into the other.

Arrays come back as copies, in their dtype; the arguments are not changed. Anything that `numpy.asarray` takes goes in,
and PyTorch's tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsIndex

import numpy as np

from normkit._checks import flag, mapping, text
from normkit._conventions import (
    CONVENTIONS,
    Convention,
    Converted,
    check_not_negative,
    convert_running_var,
    from_normkit,
    momentum_from,
    momentum_to,
    rounded,
    to_normkit,
    wide,
)
from normkit._layouts import conv_layout, depthwise_from_keras, depthwise_to_keras, per_channel, per_group
from normkit._onnx import OnnxNorm, from_onnx_node

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Converted",
    "OnnxNorm",
    "conv_layout",
    "convert_running_var",
    "depthwise_from_keras",
    "depthwise_to_keras",
    "from_darknet",
    "from_flax",
    "from_keras",
    "from_onnx",
    "from_onnx_node",
    "from_pytorch",
    "momentum_from",
    "momentum_to",
    "per_channel",
    "per_group",
    "to_darknet",
    "to_flax",
    "to_keras",
    "to_onnx",
    "to_pytorch",
]


def from_pytorch(
    state: Mapping[str, Any], *, eps: float, momentum: float | None = 0.1, axis: int = 1, prefix: str = ""
) -> Converted:
    """Return a PyTorch state dict (also as read from a safetensors file) as normkit's state and options.

    Args:
        state: name → tensor or array; with `prefix`, everything that does not start with it is ignored.
        eps: `module.eps`.
        momentum: `module.momentum`; None for a cumulative average.
        axis: the channels' axis in the arrays that normkit will see; PyTorch's is 1.
        prefix: of the layer in a model's state dict, for example "layer1.0.bn1.".

    Returns:
        `Converted`: state under normkit's names, options for `normkit.BatchNorm`. A checkpoint from before PyTorch
        0.4.1 has no `num_batches_tracked`; it becomes 0.

    Raises:
        ValueError: a name is unexpected, one running statistic is missing, shapes differ or an option is out of range.
        TypeError: an entry is no float array.

    Example:
        >>> import numpy as np
        >>> import normkit as nk
        >>> from normkit.convert import from_pytorch
        >>> model = {"bn.weight": np.ones(2), "bn.bias": np.zeros(2), "bn.running_mean": np.zeros(2),
        ...          "bn.running_var": np.ones(2), "bn.num_batches_tracked": np.array(7), "fc.weight": np.ones((3, 2))}
        >>> state, options = from_pytorch(model, eps=1e-5, prefix="bn.")
        >>> layer = nk.BatchNorm(2, **options)
        >>> layer.load_state_dict(state)
    """
    return to_normkit("pytorch", _without_prefix(state, prefix), eps, momentum, axis)


def to_pytorch(
    state: Mapping[str, Any],
    *,
    eps: float,
    momentum: float | None = 0.1,
    axis: int = 1,
    running_var_ddof: int = 1,
    count: SupportsIndex | None = None,
    prefix: str = "",
) -> Converted:
    """Return normkit's state and options as PyTorch's.

    Args:
        state: normkit's, as `layer.state_dict()` gives it.
        eps: normkit's.
        momentum: normkit's; None for a cumulative average.
        axis: ignored, as the state does not depend on it: PyTorch wants the channels of x on axis 1.
        running_var_ddof: what `running_var` was kept with.
        count: elements per channel in a training batch: rescales `running_var` if PyTorch's convention is another.
            None keeps the numbers, and so the results of inference.
        prefix: put before every name.

    Returns:
        `Converted`: arrays for `load_state_dict` (through `torch.from_numpy`), options for `torch.nn.BatchNorm2d`.

    Raises:
        ValueError: a name is unexpected, one running statistic is missing, shapes differ or an option is out of range.
        TypeError: an entry is no float array.

    Example:
        >>> import normkit as nk
        >>> from normkit.convert import to_pytorch
        >>> state, options = to_pytorch(nk.BatchNorm(2).state_dict(), eps=1e-5, prefix="bn.")
        >>> sorted(state)
        ['bn.bias', 'bn.num_batches_tracked', 'bn.running_mean', 'bn.running_var', 'bn.weight']
        >>> options
        {'eps': 1e-05, 'momentum': 0.1}
    """
    text("to_pytorch", "prefix", prefix)
    found, options = from_normkit("pytorch", state, eps, momentum, axis, running_var_ddof, count)
    del options["axis"]
    return Converted({prefix + name: value for name, value in found.items()}, options)


def from_keras(
    state: Mapping[str, Any],
    *,
    epsilon: float,
    momentum: float = 0.99,
    axis: int = -1,
    fused: bool = False,
    running_var_ddof: int | None = None,
    count: SupportsIndex | None = None,
) -> Converted:
    """Return the variables of a Keras normalization layer as normkit's state and options.

    Args:
        state: name → array with the names gamma, beta, moving_mean, moving_variance, as in
            `{v.name: v for v in layer.variables}`; those of `scale=False` or `center=False` are missing.
        epsilon: `layer.epsilon` (Keras's default is 1e-3, not 1e-5).
        momentum: `layer.momentum`: the share of the old.
        axis: `layer.axis`.
        fused: trained by the fused kernel of tf.keras, which keeps an unbiased variance (Keras 3 a biased one).
        running_var_ddof: what normkit is to go on with; the default is what the variance was kept with.
        count: elements per channel in a training batch; needed if `running_var_ddof` is another than it was kept with.

    Returns:
        `Converted`: state under normkit's names, options for `normkit.BatchNorm`.

    Raises:
        ValueError: a name is unexpected, one running statistic is missing, shapes differ, an option is out of range, or
            `count` is needed.
        TypeError: an entry is no float array.

    Example:
        >>> import numpy as np
        >>> import normkit as nk
        >>> from normkit.convert import from_keras
        >>> names = ("gamma", "beta", "moving_mean", "moving_variance")  # the order of layer.get_weights()
        >>> state, options = from_keras(dict(zip(names, np.ones((4, 3)))), epsilon=1e-3)
        >>> options
        {'eps': 0.001, 'axis': -1, 'momentum': 0.01, 'running_var_ddof': 0}
        >>> layer = nk.BatchNorm(3, **options)
        >>> layer.load_state_dict(state)
    """
    kept_ddof = int(flag("from_keras", "fused", fused))
    return to_normkit("keras", state, epsilon, momentum, axis, kept_ddof, running_var_ddof, count, "epsilon")


def to_keras(
    state: Mapping[str, Any],
    *,
    eps: float,
    momentum: float = 0.1,
    axis: int = 1,
    running_var_ddof: int = 1,
    count: SupportsIndex | None = None,
    fused: bool = False,
) -> Converted:
    """Return normkit's state and options as those of a Keras normalization layer.

    Args:
        state: normkit's, as `layer.state_dict()` gives it; `num_batches_tracked` has no counterpart and is left out.
        eps: normkit's.
        momentum: normkit's: the share of the new batch; None (cumulative) has no counterpart.
        axis: the channels' axis in the arrays that Keras will see.
        running_var_ddof: what `running_var` was kept with.
        count: elements per channel in a training batch: rescales `running_var` if Keras's convention is another. None
            keeps the numbers, and so the results of inference.
        fused: for the fused kernel of tf.keras, which keeps an unbiased variance (Keras 3 a biased one).

    Returns:
        `Converted`: arrays under Keras's names, options for `keras.layers.BatchNormalization`.

    Raises:
        ValueError: a name is unexpected, one running statistic is missing, shapes differ or an option is out of range.
        TypeError: an entry is no float array.

    Example:
        >>> import normkit as nk
        >>> from normkit.convert import to_keras
        >>> state, options = to_keras(nk.BatchNorm(3).state_dict(), eps=1e-5, axis=-1)
        >>> list(state), options
        (['gamma', 'beta', 'moving_mean', 'moving_variance'], {'epsilon': 1e-05, 'axis': -1, 'momentum': 0.9})
    """
    their_ddof = int(flag("to_keras", "fused", fused))
    return from_normkit("keras", state, eps, momentum, axis, running_var_ddof, count, their_ddof, "epsilon")


def from_flax(
    variables: Mapping[str, Any],
    *,
    epsilon: float,
    momentum: float = 0.99,
    axis: int = -1,
    running_var_ddof: int | None = None,
    count: SupportsIndex | None = None,
) -> Converted:
    """Return the variables of a Flax normalization module as normkit's state and options.

    Args:
        variables: {"params": {"scale", "bias"}, "batch_stats": {"mean", "var"}} as linen keeps them, or these four
            names flat (nnx); what the module does not have is missing.
        epsilon: `module.epsilon` (Flax's default is 1e-5 for batch norm, 1e-6 for layer and group norm).
        momentum: `module.momentum`: the share of the old.
        axis: `module.axis`.
        running_var_ddof: what normkit is to go on with; the default is Flax's 0.
        count: elements per channel in a training batch; needed if `running_var_ddof` is 1.

    Returns:
        `Converted`: state under normkit's names, options for `normkit.BatchNorm`.

    Raises:
        ValueError: a name is unexpected, one running statistic is missing, shapes differ, an option is out of range, or
            `count` is needed.
        TypeError: an entry is no float array.

    Example:
        >>> import numpy as np
        >>> from normkit.convert import from_flax
        >>> variables = {"params": {"scale": np.ones(3), "bias": np.zeros(3)},
        ...              "batch_stats": {"mean": np.zeros(3), "var": np.ones(3)}}
        >>> state, options = from_flax(variables, epsilon=1e-5)
        >>> sorted(state), options["momentum"]
        (['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight'], 0.01)
    """
    nested = mapping("from_flax", "variables", variables)
    collections = {"params", "batch_stats"}
    if nested and nested.keys() <= collections:
        nested = {
            name: value
            for key in nested
            for name, value in mapping("from_flax", f"variables[{key!r}]", nested[key]).items()
        }
    return to_normkit("flax", nested, epsilon, momentum, axis, 0, running_var_ddof, count, "epsilon", "variables")


def to_flax(
    state: Mapping[str, Any],
    *,
    eps: float,
    momentum: float = 0.1,
    axis: int = 1,
    running_var_ddof: int = 1,
    count: SupportsIndex | None = None,
) -> Converted:
    """Return normkit's state and options as those of a Flax normalization module.

    Args:
        state: normkit's, as `layer.state_dict()` gives it; `num_batches_tracked` has no counterpart and is left out.
        eps: normkit's.
        momentum: normkit's: the share of the new batch; None (cumulative) has no counterpart.
        axis: the channels' axis in the arrays that Flax will see.
        running_var_ddof: what `running_var` was kept with.
        count: elements per channel in a training batch: rescales `running_var` to Flax's biased one. None keeps the
            numbers, and so the results of inference.

    Returns:
        `Converted`: variables as linen keeps them, in "params" and "batch_stats" (each only if it is not empty),
        options for `flax.linen.BatchNorm`.

    Raises:
        ValueError: a name is unexpected, one running statistic is missing, shapes differ or an option is out of range.
        TypeError: an entry is no float array.

    Example:
        >>> import normkit as nk
        >>> from normkit.convert import to_flax
        >>> variables, options = to_flax(nk.BatchNorm(3).state_dict(), eps=1e-5, axis=-1)
        >>> {name: list(collection) for name, collection in variables.items()}
        {'params': ['scale', 'bias'], 'batch_stats': ['mean', 'var']}
        >>> options
        {'epsilon': 1e-05, 'axis': -1, 'momentum': 0.9}
    """
    flat, options = from_normkit("flax", state, eps, momentum, axis, running_var_ddof, count, eps_name="epsilon")
    collections: dict[str, Any] = {}
    for name, value in flat.items():
        collections.setdefault("params" if name in ("scale", "bias") else "batch_stats", {})[name] = value
    return Converted(collections, options)


def from_onnx(
    state: Mapping[str, Any],
    *,
    epsilon: float,
    momentum: float = 0.9,
    running_var_ddof: int | None = None,
    count: SupportsIndex | None = None,
) -> Converted:
    """Return the inputs of an ONNX BatchNormalization node as normkit's state and options.

    `from_onnx_node` reads them, and those of other norms, from a model.

    Args:
        state: scale, B, input_mean, input_var → array.
        epsilon: the node's attribute (ONNX's default is 1e-5).
        momentum: the node's attribute: the share of the old.
        running_var_ddof: what normkit is to go on with; the default is ONNX's 0.
        count: elements per channel in a training batch; needed if `running_var_ddof` is 1.

    Returns:
        `Converted`: state under normkit's names, options for `normkit.BatchNorm`; the channels are on axis 1.

    Raises:
        ValueError: a name is unexpected, one running statistic is missing, shapes differ, an option is out of range, or
            `count` is needed.
        TypeError: an entry is no float array.

    Example:
        >>> import numpy as np
        >>> from normkit.convert import from_onnx
        >>> inputs = dict(zip(("scale", "B", "input_mean", "input_var"), np.ones((4, 3))))
        >>> from_onnx(inputs, epsilon=1e-5).options
        {'eps': 1e-05, 'axis': 1, 'momentum': 0.1, 'running_var_ddof': 0}
    """
    return to_normkit("onnx", state, epsilon, momentum, 1, 0, running_var_ddof, count, "epsilon")


def to_onnx(
    state: Mapping[str, Any],
    *,
    eps: float,
    momentum: float = 0.1,
    axis: int = 1,
    running_var_ddof: int = 1,
    count: SupportsIndex | None = None,
) -> Converted:
    """Return normkit's state and options as inputs and attributes of an ONNX BatchNormalization node.

    Args:
        state: normkit's, as `layer.state_dict()` gives it; `num_batches_tracked` has no counterpart and is left out.
        eps: normkit's.
        momentum: normkit's: the share of the new batch; None (cumulative) has no counterpart.
        axis: ignored, as the state does not depend on it: ONNX wants the channels of X on axis 1.
        running_var_ddof: what `running_var` was kept with.
        count: elements per channel in a training batch: rescales `running_var` to ONNX's biased one. None keeps the
            numbers, and so the results of inference.

    Returns:
        `Converted`: arrays under the names of the node's inputs, options for `onnx.helper.make_node`.

    Raises:
        ValueError: a name is unexpected, one running statistic is missing, shapes differ or an option is out of range.
        TypeError: an entry is no float array.

    Example:
        >>> import normkit as nk
        >>> from normkit.convert import to_onnx
        >>> state, options = to_onnx(nk.BatchNorm(3).state_dict(), eps=1e-5)
        >>> list(state), options
        (['scale', 'B', 'input_mean', 'input_var'], {'epsilon': 1e-05, 'momentum': 0.9})
    """
    found, options = from_normkit("onnx", state, eps, momentum, axis, running_var_ddof, count, eps_name="epsilon")
    del options["axis"]
    return Converted(found, options)


def from_darknet(
    state: Mapping[str, Any],
    *,
    eps: float,
    decay: float = 0.99,
    eps_outside: bool = False,
    running_var_ddof: int | None = None,
    count: SupportsIndex | None = None,
) -> Converted:
    """Return the arrays of a darknet batch norm as normkit's state and options.

    Args:
        state: scales, biases, rolling_mean, rolling_variance → array.
        eps: a constant of the darknet build that made the file: 1e-5 inside the root on GPUs, in AlexeyAB's fork and in
            both projects' folding; 1e-6 outside of it in the original's CPU inference.
        decay: the share of the old, another constant: 0.99, or 0.9 in the fork's CPU training.
        eps_outside: whether the build divides by sqrt(variance) + eps. The running variance then becomes
            (sqrt(variance) + eps)², the option eps becomes 0: inference is the same, further training is not meant.
        running_var_ddof: what normkit is to go on with; the default is darknet's 1.
        count: elements per channel in a training batch; needed if `running_var_ddof` is 0.

    Returns:
        `Converted`: state under normkit's names, options for `normkit.BatchNorm`; the channels are on axis 1.

    Raises:
        ValueError: a name is unexpected, one running statistic is missing, shapes differ, an option is out of range, a
            variance is negative with `eps_outside`, or `count` is needed.
        TypeError: an entry is no float array.

    Example:
        >>> import numpy as np
        >>> from normkit.convert import from_darknet
        >>> arrays = dict(zip(("scales", "biases", "rolling_mean", "rolling_variance"), np.ones((4, 3))))
        >>> from_darknet(arrays, eps=1e-5).options
        {'eps': 1e-05, 'axis': 1, 'momentum': 0.01, 'running_var_ddof': 1}
    """
    result = to_normkit("darknet", state, eps, decay, 1, 1, running_var_ddof, count, momentum_name="decay")
    if flag("from_darknet", "eps_outside", eps_outside) and "running_var" in result.state:
        var = result.state["running_var"]
        check_not_negative("from_darknet", "rolling_variance", var)
        result.state["running_var"] = rounded((np.sqrt(wide(var)) + float(eps)) ** 2, var)
        result.options["eps"] = 0.0
    return result


def to_darknet(
    state: Mapping[str, Any],
    *,
    eps: float,
    momentum: float = 0.1,
    axis: int = 1,
    running_var_ddof: int = 1,
    count: SupportsIndex | None = None,
) -> Converted:
    """Return normkit's state and options as the arrays of a darknet batch norm.

    darknet's eps is a constant of its build, 1e-5 inside the root. Another one is moved into the running variance,
    rolling_variance = running_var + eps - 1e-5, so that inference is the same.

    Args:
        state: normkit's, as `layer.state_dict()` gives it; `num_batches_tracked` has no counterpart and is left out.
        eps: normkit's.
        momentum: normkit's: the share of the new batch; None (cumulative) has no counterpart.
        axis: ignored, as the state does not depend on it: darknet wants NCHW.
        running_var_ddof: what `running_var` was kept with.
        count: elements per channel in a training batch: rescales `running_var` to darknet's unbiased one. None keeps
            the numbers, and so the results of inference.

    Returns:
        `Converted`: arrays under darknet's names (a `.weights` file holds float32), and `eps` and `decay` as the build
        must have them.

    Raises:
        ValueError: a name is unexpected, one running statistic is missing, shapes differ, an option is out of range, or
            a variance is too small to take up an eps below 1e-5.
        TypeError: an entry is no float array.

    Example:
        >>> import numpy as np
        >>> from normkit.convert import to_darknet
        >>> state = {"running_mean": np.zeros(1), "running_var": np.ones(1)}
        >>> arrays, options = to_darknet(state, eps=1e-3, momentum=0.01)
        >>> arrays["rolling_variance"].tolist(), options
        ([1.00099], {'eps': 1e-05, 'decay': 0.99})
    """
    found, options = from_normkit("darknet", state, eps, momentum, axis, running_var_ddof, count, momentum_name="decay")
    del options["axis"]
    theirs, eps = CONVENTIONS["darknet"].eps, float(eps)
    if eps != theirs and "rolling_variance" in found:
        var = found["rolling_variance"]
        shifted = wide(var) + (eps - theirs)
        if not np.all((shifted >= 0) | np.isnan(shifted)):
            expected = f"must be >= {theirs - eps:g} where eps is {eps:g}, as darknet's eps is {theirs:g}"
            raise ValueError(f"to_darknet: `running_var` {expected}, found {var.min()}")
        found["rolling_variance"] = rounded(shifted, var)
    options["eps"] = theirs
    return Converted(found, options)


def _without_prefix(state: Mapping[str, Any], prefix: str) -> Mapping[str, Any]:
    entries = mapping("from_pytorch", "state", state)
    text("from_pytorch", "prefix", prefix)
    found = {str(name)[len(prefix) :]: value for name, value in entries.items() if str(name).startswith(prefix)}
    if prefix and not found:
        raise ValueError(f"from_pytorch: `prefix` must begin the name of an entry of state, found {prefix!r}")
    return found
