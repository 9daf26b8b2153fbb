"""THE table of what users of the peers run into: the rows of docs/users.md, by number.

A test belongs to a row by its name, `test_row_07_...`, in whatever file of tests/. `also` names tests that say more
without carrying the number, `bench` what shows a row that is about time.
"""

from dataclasses import dataclass

REPOSITORIES = {  # as the threads are usually quoted -> on GitHub
    "anise": "nyx-space/anise",
    "apex": "NVIDIA/apex",
    "CrypTen": "facebookresearch/CrypTen",
    "cs231n": "cs231n/cs231n.github.io",
    "flax": "google/flax",
    "keras": "keras-team/keras",
    "libreyolo": "LibreYOLO/libreyolo",
    "llm.c": "karpathy/llm.c",
    "llvm": "llvm/llvm-project",
    "mmdet": "open-mmlab/mmdetection",
    "numpy": "numpy/numpy",
    "oneDNN": "uxlfoundation/oneDNN",
    "oneTBB": "uxlfoundation/oneTBB",
    "onnx": "onnx/onnx",
    "onnx/optimizer": "onnx/optimizer",
    "onnxruntime": "microsoft/onnxruntime",
    "polars": "pola-rs/polars",
    "pyhmmer": "althonos/pyhmmer",
    "pyo3": "PyO3/pyo3",
    "pytorch": "pytorch/pytorch",
    "pytorch/xla": "pytorch/xla",
    "rust-numpy": "PyO3/rust-numpy",
    "tensorflow": "tensorflow/tensorflow",
    "tensorrtx": "wang-xinyu/tensorrtx",
    "tokenizers": "huggingface/tokenizers",
}


@dataclass(frozen=True)
class Row:
    """A pain, where it was seen (`repository#thread`), what normkit does, and what else shows it."""

    pain: str
    seen: str
    does: str
    also: tuple[str, ...] = ()  # "file.py::test"
    bench: tuple[str, ...] = ()  # rows of benches/peers/ops.py


ROWS = {
    1: Row(
        "float32 `mean`, `std` over the leading axes is plainly wrong: sums stick at 2²⁴",
        "numpy#22956 numpy#29772",
        "blocks of float32 lanes, merged in float64, on every layout",
        ("test_moments.py::test_per_channel", "test_moments.py::test_any_axes"),
    ),
    2: Row(
        "E[x²] - E[x]² goes negative, then NaN",
        "flax#1491 onnxruntime#28463 keras#18795",
        "centred moments only: a variance is a sum of squares",
        ("test_moments.py::test_merged_parts_equal_the_whole",),
    ),
    3: Row(
        "large mean: garbage; constants do not normalize to the bias",
        "pytorch#51102 pytorch#5410 pytorch#108072",
        "a constant gives exactly the bias; (x - mean)·scale + shift, never x·a + b with a huge b",
        ("test_edges_range.py::test_means_of_up_to_1e7_deviations",),
    ),
    4: Row(
        "folding scales the wrong axis of transposed or grouped convolutions, silently",
        "pytorch#180995 onnx/optimizer#106",
        "explicit `groups=` and `transposed=`, held to a float64 convolution",
        ("test_fold.py::test_folded_layer_equals_convolution_then_batch_norm",),
    ),
    5: Row(
        "eps is in no checkpoint: accuracy is lost by folding, silently",
        "libreyolo#700 tensorrtx#1444",
        "`eps=` is required by whatever folds or converts",
        ("test_fold.py::test_eps_is_required",),
    ),
    6: Row(
        "momentum means opposite things",
        "pytorch#15298 cs231n#180",
        "`momentum` is the share of the new batch, as in PyTorch; converters go by the other library's name",
        ("test_convert.py::test_round_trip_of_momentum", "test_batch_norm.py::test_running_statistics"),
    ),
    7: Row(
        "is the running variance biased or unbiased?",
        "pytorch#1410 tensorflow#55545",
        "`running_var_ddof` says it: 1 as PyTorch, 0 as Keras and ONNX",
        ("test_convert.py::test_round_trip_of_the_divisor",),
    ),
    8: Row(
        "a thread pool hangs after `fork()`",
        "tokenizers#187 polars#24162",
        "a child has a pool of its own",
        ("test_processes.py::test_call_then_fork_then_call_in_both", "test_bits.py::test_after_fork"),
    ),
    9: Row(
        "the number of threads is fixed for the process, and ignores quotas",
        "polars#6157 oneTBB#190",
        "`set_num_threads`, `num_threads`, environment; affinity and quota are honoured; small arrays stay serial",
        (
            "test_processes.py::test_environment",
            "test_processes.py::test_affinity_is_the_default",
            "test_processes.py::test_num_threads_restores_the_number",
            "test_processes.py::test_changing_the_number_of_threads_while_others_work",
        ),
    ),
    10: Row(
        "strided input is permuted silently, gradients are wrong",
        "pytorch#63224 pytorch#175189 rust-numpy#101",
        "any strides, negative, zero or permuted, of x, dy and parameters give what the contiguous copy gives",
        ("test_arrays.py::test_any_strides_of_x_dy_and_parameters", "test_norms.py::test_any_input"),
    ),
    11: Row(
        "the result depends on the number of threads",
        "pytorch#88718 oneDNN#354",
        "the same bits for every number of threads and every instruction set",
        ("test_bits.py::test_threads", "test_bits.py::test_instruction_sets"),
    ),
    12: Row(
        "statistics taken in half precision; mixed dtypes refused",
        "pytorch#77507 pytorch#140112 apex#133",
        "statistics are always wide; any of the four dtypes for x, dy and parameters",
        ("test_half.py::test_y_is_rounded_to_nearest_even_once",),
    ),
    13: Row(
        "the last batch has one sample: an error or NaN in the running variance",
        "pytorch#4534 tensorflow#34062",
        "a clear ValueError in training; running statistics are as before",
        (
            "test_layers_batch.py::test_one_value_per_channel_is_an_error_and_moves_nothing",
            "test_mask.py::test_one_value_left_is_an_error_and_two_are_not",
        ),
    ),
    14: Row(
        "an empty batch crashes, or spoils the state with NaN",
        "pytorch#12013 pytorch#29578",
        "empty output, running statistics as before, gradients of 0",
        ("test_mask.py::test_all_masked_is_an_empty_batch", "test_weights.py::test_nothing_at_all"),
    ),
    15: Row(
        "bad arguments crash or panic",
        "pytorch#194014 pytorch#141203",
        "everything is checked first; ValueError or TypeError names the argument, what was expected and what was found",
        ("test_bad_input.py::test_refused", "test_weights.py::test_refused"),
    ),
    16: Row(
        "the backward of frozen statistics is wrong or missing",
        "pytorch/xla#3361 CrypTen#143",
        "a backward in both modes, held to finite differences",
        ("test_gradients.py::test_every_norm",),
    ),
    17: Row(
        "an imprecise gradient of the weight",
        "pytorch#57796 pytorch#188375",
        "Σ dy·(x - mean), centred, merged in float64",
        ("test_norms.py::test_table",),
    ),
    18: Row(
        "an illegal instruction on import on old processors",
        "polars#2922",
        "one package: a baseline build with run-time dispatch",
        ("test_bits.py::test_instruction_sets",),
    ),
    19: Row(
        "memory: x̂ is kept, nothing works in place",
        "oneDNN#243 llm.c#478",
        "a cache is x by reference, the mean and rstd; `out=`; dx may be written over dy",
        (
            "test_arrays.py::test_dx_may_be_written_over_dy",
            "test_arrays.py::test_inference_may_be_written_over_x",
            "test_half.py::test_no_wide_copy_of_the_tensor",
        ),
    ),
    20: Row(
        "some layouts are 20 times slower: channels-last, or (N, C)",
        "pytorch#59168 oneDNN#197",
        "a kernel for each layout, no transposed copy; the output keeps the layout",
        ("test_arrays.py::test_dense_outputs_keep_the_memory_layout",),
        ("batch_norm-channels_last", "batch_norm"),
    ),
    21: Row(
        "layer norm over the channels of NCHW needs a transpose",
        "pytorch#71465",
        "`axis=` takes any axes",
        ("test_norms.py::test_any_input",),
    ),
    22: Row(
        "padding pollutes the statistics",
        "tensorflow#30161 keras#18759",
        "`mask=`, forward and backward, equals the compacted array",
        (
            "test_mask.py::test_equals_the_compacted_array",
            "test_mask.py::test_what_is_behind_the_mask_does_not_matter",
        ),
    ),
    23: Row(
        "synchronized batch norm: none on CPUs; wrong for uneven shards",
        "pytorch#78081 pytorch#22192 pytorch#36382",
        "mergeable (count, mean, m2) in both directions; uneven and empty shards equal one batch",
        ("test_moments.py::test_parts_merge_in_any_order",),
    ),
    24: Row(
        "a convolution that is used twice is corrupted by folding",
        "pytorch#197539",
        "new arrays are returned, inputs never changed",
        ("test_fold.py::test_new_arrays_and_unchanged_inputs",),
    ),
    25: Row(
        "folding without a convolution bias, without an affine, with mixed dtypes",
        "pytorch#45474 mmdet#2924",
        "each may be None; always (weight, bias); float64 inside, one rounding",
        ("test_fold.py::test_one_rounding",),
    ),
    26: Row(
        "an import turns on flush-to-zero for the whole process",
        "pyhmmer#71 llvm#57589",
        "no fast-math; the floating-point mode is as it was; 5e-324 survives",
        ("test_norms.py::test_subnormal_inputs_are_not_flushed",),
    ),
    27: Row(
        "ONNX's GroupNormalization has an affine per group in opset 18, per channel in 21",
        "onnx#5466",
        "per channel; per group only when asked for by name",
        ("test_convert.py::test_onnx_group_norm", "test_convert.py::test_per_group_and_back"),
    ),
    28: Row(
        "the GIL and the thread pool deadlock; free-threaded Python is left out",
        "anise#457 pyo3#4767",
        "the GIL is released around kernels, workers never touch Python, the module is declared free of the GIL",
        ("test_processes.py::test_the_gil_is_released", "test_processes.py::test_eight_threads_at_once"),
    ),
    29: Row(
        "spectral norm changes u in evaluation; rows of zeros give NaN",
        "pytorch#13350 pytorch#142840",
        "u and v are returned, inputs never changed; finite on zeros",
        ("test_weights.py::test_a_weight_of_zeros_recovers", "test_weights.py::test_zero_rows_of_weight_norm_are_zero"),
    ),
    30: Row(
        "misaligned, read-only or byte-swapped arrays crash",
        "rust-numpy#409 rust-numpy#525",
        "accepted, with the same bits",
        ("test_arrays.py::test_any_strides_of_x_dy_and_parameters", "test_fold.py::test_any_memory"),
    ),
    31: Row(
        "batch norm + ReLU fused is slower than one by one in training",
        "oneDNN#583",
        "fused takes no more time than one by one, as a benchmark shows; it keeps a bit per element at most",
        ("test_benches.py::test_calls",),
        ("batch_norm-relu-residual",),
    ),
}
