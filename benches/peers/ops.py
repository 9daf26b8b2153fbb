"""THE table of what is measured: a norm is one row in `ROWS`, which gives its forward and its backward.

normkit's calls are those of the tests' table (tests/cases.py), by name; those of functions that are not in it are in
calls.py. PyTorch's are code, so that what is shown is what runs. No peer is imported here: tests read this table too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

COPY, ADD = "copy", "a + b"
MODES = ("fresh", "out")
FRESH = ("fresh",)  # of a function that has no `out=`


@dataclass(frozen=True)
class Torch:
    """PyTorch's fastest honest call. Its names are those of `Case.arrays`, and a few of peer_torch.py."""

    call: str
    out: str = ""  # the same into `out`, where PyTorch has that
    setup: str = ""  # run once, not timed


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    sets: tuple[str, ...]  # of shapes.py
    torch: Torch | None = None
    torch_backward: Torch | None = None
    norm: str = ""  # the row of tests/cases.py or calls.py; `name` where empty
    compiled: Torch | None = None  # what torch.compile makes of the forward
    compiled_backward: Torch | None = None
    limit: str = COPY  # of the forward; a backward's is a + b
    modes: tuple[str, ...] = MODES  # of the forward
    backward_modes: tuple[str, ...] = MODES  # every function's backward has `out=`
    has_backward: bool = True
    dtype: str = "float32"
    channels_last: bool = False  # in memory; the shape stays (N, C, *spatial)
    beside: str = ""  # a second way of our own: "float32", "NCHW", "unfused" or "one thread"

    @property
    def is_layer(self) -> bool:
        """Whether `norm` is a class: a function's norm, measured by way of a layer."""
        return self.norm[:1].isupper()


@dataclass(frozen=True)
class Op:
    """What is measured: one direction of a row."""

    name: str
    title: str
    row: Row
    backward: bool

    @property
    def norm(self) -> str:
        return self.row.norm or self.row.name

    @property
    def limit(self) -> str:
        return ADD if self.backward else self.row.limit

    @property
    def modes(self) -> tuple[str, ...]:
        return self.row.backward_modes if self.backward else self.row.modes

    @property
    def torch(self) -> Torch | None:
        return self.row.torch_backward if self.backward else self.row.torch

    @property
    def compiled(self) -> Torch | None:
        return self.row.compiled_backward if self.backward else self.row.compiled


BATCH = Row(
    "batch_norm",
    "batch norm",
    ("resnet50", "densenet121", "small", "mlp", "layouts", "nothing"),
    Torch(
        "F.batch_norm(x, rm, rv, w, b, True, momentum, eps)",
        "aten.native_batch_norm.out(x, w, b, rm, rv, True, momentum, eps, out=out, **saved)[0]",
        "saved = {'save_mean': torch.empty(C), 'save_invstd': torch.empty(C)}",
    ),
    Torch(
        "aten.native_batch_norm_backward.default(dy, x, w, rm, rv, mean, rstd, True, eps, ALL)",
        "aten.native_batch_norm_backward.out(dy, x, w, rm, rv, mean, rstd, True, eps, ALL, out0=out, out1=dw, out2=db)",
        "_, mean, rstd = aten.native_batch_norm(x, w, b, rm, rv, True, momentum, eps); dw, db = like(w), like(b)",
    ),
    compiled=Torch("forward(x, w, b)", setup="forward = compiled(batch_norm(rm, rv, momentum, eps))"),
    compiled_backward=Torch(
        "backward(dy)", setup="backward = autograd(compiled(batch_norm(rm, rv, momentum, eps)), x, w, b)"
    ),
)
INFERENCE = Row(
    "batch_norm_inference",
    "batch norm, inference",
    ("resnet50", "densenet121", "small"),
    Torch(
        "F.batch_norm(x, rm, rv, w, b, False, 0.0, eps)",
        "aten.native_batch_norm.out(x, w, b, rm, rv, False, 0.0, eps, out=out, **saved)[0]",
        "saved = {'save_mean': torch.empty(0), 'save_invstd': torch.empty(0)}",
    ),
    has_backward=False,
)
GROUP = Row(
    "group_norm",
    "group norm",
    ("resnet50", "groupnorm", "small"),
    Torch(
        "F.group_norm(x, groups, w, b, eps)",
        "aten.native_group_norm.out(x, w, b, *sizes, eps, out0=out, out1=mean, out2=rstd)[0]",
        "mean, rstd = torch.empty(N, groups), torch.empty(N, groups)",
    ),
    Torch(
        "aten.native_group_norm_backward.default(dy, x, mean, rstd, w, *sizes, ALL)",
        "aten.native_group_norm_backward.out(dy, x, mean, rstd, w, *sizes, ALL, out0=out, out1=dw, out2=db)",
        "_, mean, rstd = aten.native_group_norm(x, w, b, *sizes, eps); dw, db = like(w), like(b)",
    ),
)
# As PyTorch computes it itself: a batch norm of one sample with N·C channels.
INSTANCE = Row(
    "instance_norm",
    "instance norm",
    ("styletransfer",),
    Torch("F.instance_norm(x, None, None, w, b, True, momentum, eps)"),
    Torch(
        "instance_norm_backward(dy, x, w, mean, rstd, eps)",
        setup="_, mean, rstd = aten.native_batch_norm(one(x), None, None, None, None, True, momentum, eps)",
    ),
)
ADAPTIVE = Row(
    "adaptive_instance_norm",
    "adaptive instance norm",
    ("adain",),
    Torch("adaptive_instance_norm(x, style, eps)"),
    Torch("backward(dy)", setup="backward = autograd(adaptive_instance_norm, x, style, eps=eps)"),
    norm="adaptive_instance_norm-ddof_0",
    limit=ADD,
)
LAYER = Row(
    "layer_norm",
    "layer norm",
    ("rows",),
    Torch(
        "F.layer_norm(x, (C,), w, b, eps)",
        "aten.native_layer_norm.out(x, (C,), w, b, eps, out0=out, out1=mean, out2=rstd)[0]",
        "mean, rstd = torch.empty(N, 1), torch.empty(N, 1)",
    ),
    Torch(
        "aten.native_layer_norm_backward.default(dy, x, (C,), mean, rstd, w, b, ALL)",
        "aten.native_layer_norm_backward.out(dy, x, (C,), mean, rstd, w, b, ALL, out0=out, out1=dw, out2=db)",
        "_, mean, rstd = aten.native_layer_norm(x, (C,), w, b, eps); dw, db = like(w), like(b)",
    ),
    norm="layer_norm-last",
)
RMS = Row(
    "rms_norm",
    "RMS norm",
    ("rows",),
    Torch("F.rms_norm(x, (C,), w, eps)"),
    Torch("backward(dy)", setup="backward = autograd(rms_norm, x, w, eps=eps)"),
    norm="rms_norm-last",
)
FUSED = Row(
    "batch_norm-relu-residual",
    "batch norm + add + ReLU",
    ("residuals",),
    Torch(
        "F.batch_norm(x, rm, rv, w, b, True, momentum, eps).add_(residual).relu_()",
        f"{BATCH.torch.out}.add_(residual).relu_()",
        BATCH.torch.setup,
    ),
    Torch(
        "batch_norm_relu_backward(dy, y, x, w, rm, rv, mean, rstd, eps)",
        setup="y, mean, rstd = aten.native_batch_norm(x, w, b, rm, rv, True, momentum, eps); y += residual; y.relu_()",
    ),
    compiled=Torch("forward(x, w, b, residual)", setup="forward = compiled(batch_norm_relu(rm, rv, momentum, eps))"),
    compiled_backward=Torch(
        "backward(dy)",
        setup="backward = autograd(compiled(batch_norm_relu(rm, rv, momentum, eps)), x, w, b, residual)",
    ),
    limit=ADD,
    beside="unfused",
)
MODULE = Row(
    "batch_norm-module",
    "batch norm as a layer",
    ("tiny",),
    Torch("module(x)", setup="module = batch_norm_module(w, b)"),
    Torch("backward(dy)", setup="module = batch_norm_module(w, b); backward = autograd_of_module(module, x)"),
    norm="BatchNorm",
    modes=FRESH,
    backward_modes=FRESH,
)
THREADS = replace(
    BATCH,
    name="batch_norm-threads",
    title="batch norm in cache",
    sets=("in-cache",),
    norm="batch_norm",
    torch=None,
    torch_backward=None,
    compiled=None,
    compiled_backward=None,
    beside="one thread",
)
RENORM = Row("batch_renorm", "batch renormalization", ("resnet50-three",))


def in_halves() -> Iterator[Row]:
    for row in (BATCH, GROUP):
        for dtype in ("float16", "bfloat16"):
            name, title = f"{row.name}-{dtype}", f"{row.title}, {dtype}"
            how = {"norm": row.name, "dtype": dtype, "beside": "float32", "compiled": None, "compiled_backward": None}
            yield replace(row, name=name, title=title, sets=("resnet50-three",), **how)


CHANNELS_LAST = replace(
    BATCH,
    name="batch_norm-channels_last",
    title="batch norm, channels last",
    sets=("resnet50-three",),
    norm="batch_norm",
    channels_last=True,
    beside="NCHW",
    compiled=None,
    compiled_backward=None,
)
MOMENTS = Row(
    "moments",
    "moments",
    ("resnet50-three",),
    Torch("torch.var_mean(x, dim=over, correction=0)[::-1]"),
    modes=FRESH,
    has_backward=False,
)
WEIGHT = Row(
    "weight_norm",
    "weight norm",
    ("weights",),
    Torch("aten._weight_norm_interface.default(x, g, 0)[0]"),
    Torch(
        "aten._weight_norm_interface_backward.default(dy, x, g, norms, 0)",
        "aten._weight_norm_interface_backward.out(dy, x, g, norms, 0, out0=out, out1=dg)",
        "_, norms = aten._weight_norm_interface(x, g, 0); dg = like(g)",
    ),
    modes=FRESH,
)
SPECTRAL = Row(
    "spectral_norm",
    "spectral norm",
    ("weights",),
    Torch("spectral_norm(x, u, v)"),
    Torch("backward(dy)", setup="backward = autograd(spectral_norm, x, u=u, v=v)"),
    modes=FRESH,
)
STANDARDIZATION = Row(
    "scaled_weight_standardization",
    "scaled weight standardization",
    ("weights",),
    Torch("scaled_weight_standardization(x, g)"),
    Torch("backward(dy)", setup="backward = autograd(scaled_weight_standardization, x, g)"),
    modes=FRESH,
)
FOLD = Row(
    "fold_conv_bn",
    "fold_conv_bn",
    ("convolutions",),
    Torch("[fuse_conv_bn_weights(weight, None, rm, rv, eps, w, b) for weight, rm, rv, w, b in convolutions]"),
    modes=FRESH,
    has_backward=False,
)

ROWS = (
    *(BATCH, INFERENCE, GROUP),
    *(INSTANCE, ADAPTIVE, LAYER, RMS, FUSED, RENORM, *in_halves(), CHANNELS_LAST),
    *(MOMENTS, WEIGHT, SPECTRAL, STANDARDIZATION, FOLD, MODULE, THREADS),
)


def directions(row: Row) -> Iterator[Op]:
    yield Op(row.name, f"{row.title}, forward" if row.has_backward else row.title, row, False)
    if row.has_backward:
        yield Op(f"{row.name}_backward", f"{row.title}, backward", row, True)


OPS = {op.name: op for row in ROWS for op in directions(row)}


def on(shapes: str) -> list[Op]:
    """The ops that are measured on a set of shapes."""
    return [op for op in OPS.values() if shapes in op.row.sets]
