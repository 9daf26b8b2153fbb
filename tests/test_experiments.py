"""The experiments' quick runs: what they write is what they claim, recomputed here by other means."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import normkit as nk
from digits.data import bundled_digits
from digits.models import mlp
from digits.nn import softmax_cross_entropy
from experiments import averages, batches, beyond, ranges
from experiments.findings import spread, verdict
from experiments.propagation import growth, similarity, stable_rank
from experiments.residual import RELU_VARIANCE, group
from experiments.training import SGD, shuffled_batches, train_step
from experiments.workers import missing, sync_runs

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "ranges": "feature_ranges",
    "momentum": "ema_momentum",
    "batch-size": "batch_size",
    "beyond": "beyond_batchnorm",
}
PICTURES = {"beyond": ["-initialization", "-training"]}


def run(command, *arguments):
    program = [sys.executable, ROOT / "examples" / f"{command}.py", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def quick(tmp_path_factory):
    """Each quick run once, by name: its page and its numbers."""
    done = {}

    def result(name):
        if name not in done:
            out = tmp_path_factory.mktemp(name)
            process = run(COMMANDS[name], "--quick", "--out", out)
            assert process.returncode == 0, process.stderr
            for suffix in PICTURES.get(name, [""]):
                assert (out / f"experiment-{name}{suffix}.png").read_bytes().startswith(b"\x89PNG")
            page, numbers = (out / f"experiment-{name}.{kind}" for kind in ("md", "json"))
            done[name] = page.read_text(), json.loads(numbers.read_text()), process.stdout
        return done[name]

    return result


def row(page, title, label):
    """The cells of one row of one table of a page."""
    table = page[page.index(f"**{title}") :]
    return next(line for line in table.splitlines() if line.startswith(f"| {label} |")).strip("| ").split(" | ")[1:]


# The frame


@pytest.mark.parametrize("name", COMMANDS)
def test_every_run_ends_with_verdicts(quick, name):
    page, _, said = quick(name)
    outcomes = re.findall(r"^\| \*\*(Seen|Not seen here|Undecided) \((\d) of 2 seeds\)\*\* \|", page, re.M)
    assert outcomes
    assert len(outcomes) == len(re.findall(r"^\| \*\*", page, re.M))
    for outcome, count in outcomes:
        assert outcome == {"0": "Not seen here", "1": "Undecided", "2": "Seen"}[count]
    assert "Written:" in said


def test_a_claim_is_seen_only_if_it_held_in_every_seed():
    outcomes = [verdict("s", "c", "m", holds).outcome for holds in ([True] * 5, [True] * 4 + [False], [False] * 5)]
    assert outcomes == ["Seen (5 of 5 seeds)", "Undecided (4 of 5 seeds)", "Not seen here (0 of 5 seeds)"]


def test_spread_names_the_runs_that_diverged():
    assert spread([1.0, 2.0, 3.0]) == "2 ± 1"
    assert spread([1.0, np.inf]) == "1 (1 of 2 diverged)"
    assert spread([np.nan, np.inf]) == "2 of 2 diverged"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_quick_run_is_no_record(name):
    refused = run(COMMANDS[name], "--quick", "--record")
    assert refused.returncode == 2
    assert "no record" in refused.stderr


def test_the_page_has_a_recorded_run_and_the_pictures_of_each():
    page = (ROOT / "docs" / "experiments.md").read_text()
    for name in COMMANDS:
        block = page.partition(f"<!-- {name}:start -->")[2].partition(f"<!-- {name}:end -->")[0]
        # A number on the page is from a recorded run; where there is none yet, the page says so and shows none.
        assert ("of 5 seeds" in block) != ("Not recorded yet" in block)
        assert f"make experiment-{name}" in page
    for section in page.split("\n## ")[1:]:
        for picture in re.findall(r"\]\((images/[^)]+\.png)\)", section):
            if "Not recorded yet" not in section:
                assert (ROOT / "docs" / picture).read_bytes().startswith(b"\x89PNG")


# Feature ranges


def test_ranges_condition_number(quick):
    page, numbers, _ = quick("ranges")
    for seed, found in enumerate(numbers["linear"]["raw"]):
        inputs, _ = ranges.linear_problem(np.random.default_rng(seed))
        assert inputs[:, 0].max() <= 1 < 9000 < inputs[:, 1].max() <= 10_000
        singular = np.linalg.svd(np.column_stack([inputs, np.ones(len(inputs))]), compute_uv=False)
        condition = (singular[0] / singular[-1]) ** 2
        # The smallest eigenvalue of the Hessian is known to the rounding of the largest: eps · condition, relatively.
        assert found["condition"] == pytest.approx(condition, rel=10 * np.finfo(float).eps * condition)
    cells = row(page, "Linear model", "raw")
    assert cells[0] == spread([found["condition"] for found in numbers["linear"]["raw"]])
    assert cells[2] == "not in 100"


def test_ranges_descent_is_gradient_descent():
    """The recursion on the error is the textbook loop on the loss itself."""
    inputs, targets = ranges.linear_problem(np.random.default_rng(0))
    inputs = ranges.standardize(inputs)[0] * [1, 3]  # slow enough to see
    found = ranges.descend(inputs, targets, 20)
    design, weights, losses = np.column_stack([inputs, np.ones(len(inputs))]), np.zeros(3), []
    for _ in range(21):
        residual = design @ weights - targets
        losses.append(np.mean(residual**2) / 2)
        weights -= found.rate * design.T @ residual / len(design)
    best = np.linalg.lstsq(design, targets, rcond=None)[0]
    excess = np.array(losses) - np.mean((design @ best - targets) ** 2) / 2
    # The difference of two losses near 0.1 carries their rounding, over 1000 terms.
    np.testing.assert_allclose(found.excess, excess / excess[0], atol=1000 * np.finfo(float).eps)
    assert ranges.steps_until(found.excess, 0.5) == np.flatnonzero(excess <= 0.5 * excess[0])[0]
    assert ranges.steps_until(found.excess, -1) is None


def test_ranges_standardized_by_the_training_set():
    rng = np.random.default_rng(0)
    train, test = rng.random((200, 3)) * [1, 10_000, 0] + 5, rng.random((50, 3))
    own, other = ranges.standardize(train, test)
    np.testing.assert_allclose(own[:, :2].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(own[:, :2].std(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(other[:, :2], ((test - train.mean(axis=0)) / train.std(axis=0).clip(1e-9))[:, :2])
    assert not own[:, 2].any()


def test_ranges_views_are_the_same_digits():
    data = bundled_digits()
    views = ranges.views(data, np.random.default_rng(3))
    raw = views[ranges.RAW]
    assert raw.small.sum() == 32
    assert raw.train[:, raw.small].max() == 1
    assert raw.train[:, ~raw.small].max() == 10_000
    np.testing.assert_array_equal(raw.train / np.where(raw.small, 1, 10_000), data.train_images.reshape(-1, 64))
    without = raw.without_small()
    np.testing.assert_array_equal(without[:, ~raw.small], raw.test[:, ~raw.small])
    assert np.ptp(without[:, raw.small], axis=0).max() == 0


# EMA momentum


def test_momentum_averages_are_what_they_say():
    rng = np.random.default_rng(0)
    norm = averages.WatchedBatchNorm(3)
    plain = nk.BatchNorm(3)
    seen = [rng.normal(2, 3, (8, 3, 4, 4)).astype(np.float32) for _ in range(7)]
    for x in seen:
        np.testing.assert_array_equal(norm(x), plain(x))
    means = np.array([x.mean(axis=(0, 2, 3), dtype=float) for x in seen])
    variances = np.array([x.var(axis=(0, 2, 3), dtype=float, ddof=1) for x in seen])
    for name, stays in averages.ARMS.items():
        # Weight of every batch, and of the start, which is mean 0 and variance 1.
        weights = np.full(7, 1 / 7) if stays is None else (1 - stays) * stays ** np.arange(6, -1, -1.0)
        start = 0 if stays is None else stays**7
        # Seven roundings to float32 of a running value.
        tolerance = {"rtol": 7 * np.finfo(np.float32).eps, "atol": 1e-7}
        np.testing.assert_allclose(norm.averages[name].running_mean, weights @ means, **tolerance)
        np.testing.assert_allclose(norm.averages[name].running_var, start + weights @ variances, **tolerance)

    before = {name: norm.averages[name].running_mean.copy() for name in averages.ARMS}
    everything = np.concatenate(seen)
    norm.measure = True
    norm(everything)
    norm.measure = False
    population = norm.averages[averages.POPULATION]
    np.testing.assert_allclose(population.running_mean, everything.mean(axis=(0, 2, 3), dtype=float), rtol=1e-6)
    np.testing.assert_allclose(population.running_var, everything.var(axis=(0, 2, 3), dtype=float, ddof=1), rtol=1e-6)
    for name, mean in before.items():
        np.testing.assert_array_equal(norm.averages[name].running_mean, mean)

    norm.eval()
    norm.params["weight"][:] = 2
    norm.using = "0.9"
    used = norm.averages["0.9"]
    mean, var = (v.astype(float)[:, None, None] for v in (used.running_mean, used.running_var))
    np.testing.assert_allclose(norm(seen[0]), 2 * (seen[0] - mean) / np.sqrt(var + 1e-5), rtol=1e-5, atol=1e-5)


def test_momentum_table(quick):
    page, numbers, _ = quick("momentum")
    runs = numbers["checkpoints"]
    index = next(i for i, checkpoint in enumerate(runs[0]) if checkpoint["step"] == 10)
    cells = row(page, "Test accuracy", "10")
    for cell, arm in zip(cells, (*averages.ARMS, averages.POPULATION), strict=True):
        accuracies = np.array([seed[index]["accuracy"][arm] for seed in runs])
        assert cell == f"{100 * accuracies.mean():.1f} ± {100 * accuracies.std(ddof=1):.1f} %"
    step = max((c["step"] for c in runs[0]), key=lambda step: -abs(step - 100))
    assert row(page, "What the momentum", "0.999")[:2] == ["0.001", f"{0.999**step:.2g}"]


def test_momentum_settled_at_the_first_look_after_which_it_stays():
    def looks(*accuracies):
        return [
            averages.Checkpoint(step, {"0.9": value, averages.POPULATION: 0.9}, {}, {}, {})
            for step, value in enumerate(accuracies, 1)
        ]

    assert averages.settled_at(looks(0.9, 0.5, 0.89, 0.9), "0.9", 0.02) == 3
    assert averages.settled_at(looks(0.9, 0.9, 0.5), "0.9", 0.02) is None


# Batch size sweep


def test_batch_size_one_cell_again(quick):
    """Ten steps of the group norm MLP, in float64 and NumPy alone."""
    _, numbers, _ = quick("batch-size")
    found = numbers["MLP | group norm | 32"][0]
    data = bundled_digits().first(320)
    network = mlp((8, 8), np.random.default_rng([0, 0]), lambda c: nk.GroupNorm(c // 4, c))
    params = [{k: v.astype(float) for k, v in layer.params.items()} for layer in network.layers if layer.params]
    velocities = [{k: np.zeros_like(v) for k, v in p.items()} for p in params]

    def forward(images):
        x, kept = images.reshape(len(images), -1).astype(float), []
        for linear, norm in ((params[0], params[1]), (params[2], params[3])):
            z = (x @ linear["weight"] + linear["bias"]).reshape(len(x), -1, 4)
            rstd = 1 / np.sqrt(z.var(axis=2, keepdims=True) + 1e-5)
            normalized = (z - z.mean(axis=2, keepdims=True)) * rstd
            y = normalized.reshape(len(x), -1) * norm["weight"] + norm["bias"]
            kept.append((x, normalized, rstd, y))
            x = np.maximum(y, 0)
        return x @ params[4]["weight"] + params[4]["bias"], x, kept

    losses = []
    order = shuffled_batches(320, 32, np.random.default_rng([0, 1]))
    for _ in range(10):
        batch = next(order)
        logits, hidden, kept = forward(data.train_images[batch])
        loss, d = softmax_cross_entropy(logits, data.train_labels[batch])
        losses.append(loss)
        gradients = [{}, {}, {}, {}, {"weight": hidden.T @ d, "bias": d.sum(axis=0)}]
        d = d @ params[4]["weight"].T
        for layer, (x, normalized, rstd, y) in zip((2, 0), reversed(kept), strict=True):
            d = d * (y > 0)
            flat = normalized.reshape(d.shape)
            gradients[layer + 1] = {"weight": (d * flat).sum(axis=0), "bias": d.sum(axis=0)}
            d = (d * params[layer + 1]["weight"]).reshape(normalized.shape)
            mean, product = (v.mean(axis=2, keepdims=True) for v in (d, d * normalized))
            d = (rstd * (d - mean - normalized * product)).reshape(flat.shape)
            gradients[layer] = {"weight": x.T @ d, "bias": d.sum(axis=0)}
            d = d @ params[layer]["weight"].T
        for p, v, g in zip(params, velocities, gradients, strict=True):
            for name in p:
                v[name] = 0.9 * v[name] + g[name]
                p[name] -= 0.1 * 32 / 64 * v[name]
    logits = forward(data.test_images)[0]
    # Ten steps in float32 beside ten in float64: rounding, eps times some thousand additions, and its growth.
    assert found["train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["test_loss"] == pytest.approx(softmax_cross_entropy(logits, data.test_labels)[0], rel=1e-4)
    assert found["test_accuracy"] == np.mean(logits.argmax(axis=1) == data.test_labels)


def test_batch_size_table(quick):
    page, numbers, _ = quick("batch-size")
    accuracies = np.array([outcome["test_accuracy"] for outcome in numbers["convnet | batch norm | 2"]])
    expected = f"{100 * accuracies.mean():.1f} ± {100 * accuracies.std(ddof=1):.1f} %"
    assert row(page, "convnet: test accuracy", "batch norm")[0] == expected


def test_batch_size_says_what_it_left_out(quick):
    page, numbers, _ = quick("batch-size")
    assert (f"MLP | {batches.SYNC} | 2" in numbers) == (missing() is None)
    assert (f"Left out: {batches.SYNC}" in page) == (missing() is not None)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_batch_size_two_workers_are_one_with_twice_the_batch():
    pair = batches.Run("MLP", batches.SYNC, 16, 0, 1, 320)
    ((_, two),) = sync_runs([pair])
    one = batches.sweep(pair._replace(arm=batches.BATCH, batch=32))
    # Ten steps in float32 whose sums are taken in another order.
    np.testing.assert_allclose(two, one, rtol=1e-3)


# Beyond BatchNorm


def test_beyond_measures():
    rng = np.random.default_rng(0)
    y = rng.normal(1, 1, (7, 30))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(y) for b in y[:i]]
    assert similarity(y) == pytest.approx(np.mean(cosines), rel=1e-12)
    assert stable_rank(np.diag([2.0, 2, 1, 0])) == pytest.approx(9 / 4)
    line, doubling = growth(3.0 * np.arange(1, 9)), growth(2.0 ** np.arange(8))
    assert line.factor == 2
    assert line.linear_fit == pytest.approx(1)
    assert line.exponential_fit < 0.95
    assert doubling.factor == 2**4
    assert doubling.exponential_fit == pytest.approx(1)
    assert doubling.linear_fit < 0.95


def convolve(x, weight):
    """Zero-padded 3x3 convolution, pixel by pixel."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.zeros((len(x), len(weight), *x.shape[2:]))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            y[:, :, i, j] = np.tensordot(padded[:, :, i : i + 3, j : j + 3], weight, axes=((1, 2, 3), (1, 2, 3)))
    return y


def instance_norm(x):
    return (x - x.mean(axis=(2, 3), keepdims=True)) / np.sqrt(x.var(axis=(2, 3), keepdims=True) + 1e-5)


@pytest.mark.parametrize("name", ["no norm", "instance norm"])
def test_beyond_variance_again(quick, name):
    """The quick run's residual network, forward, in float64 and NumPy alone."""
    _, numbers, _ = quick("beyond")
    scale = beyond.QUICK
    width, depth = scale.width, scale.depth[beyond.RESIDUAL]
    images, _ = beyond.probe_batch(beyond.data(), 0, scale.batch)
    rng = np.random.default_rng([0, 0])

    def weight(inputs):
        return rng.standard_normal((width, inputs, 3, 3), dtype=np.float32) * np.float32(np.sqrt(2 / (9 * inputs)))

    def relu_norm(x):
        return np.maximum(instance_norm(x) if name == "instance norm" else x, 0)

    x, variances = convolve(images, weight(1)), []
    for _ in range(depth):
        x = x + convolve(relu_norm(convolve(relu_norm(x), weight(width))), weight(width))
        variances.append(x.var(axis=(0, 2, 3)).mean())
    # Float32 along 13 convolutions: their roundings, eps times the root of 72 terms each, add up.
    np.testing.assert_allclose(numbers[f"initial | residual | {name} | 0"]["variance"], variances, rtol=1e-4)


@pytest.mark.parametrize(("net", "name"), [(net, name) for net in beyond.NETS for name in beyond.kinds(4, net)])
def test_beyond_gradients(net, name):
    """The gradient at the first block's output, by central differences along a direction."""
    data = beyond.data()
    images, labels = data.train_images[:6].astype(float), data.train_labels[:6]
    network = beyond.build(net, beyond.kinds(4)[name], 4, 3, (8, 8), 0)
    for layer in network.layers:
        layer.params.update({key: value.astype(float) for key, value in layer.params.items()})

    def loss(x):
        for block in network.blocks[1:]:
            x = block(x)
        return softmax_cross_entropy(network.head(x), labels)

    network.backward(softmax_cross_entropy(network(images), labels)[1])
    at, gradient = network.outputs[0], network.gradients[0]
    direction = np.random.default_rng(1).standard_normal(at.shape)
    direction /= np.linalg.norm(direction)
    h = 1e-6
    difference = (loss(at + h * direction)[0] - loss(at - h * direction)[0]) / (2 * h)
    # h² of the curvature and eps / h of the loss: both below 1e-8; a kink of ReLU within h is as rare as h is small.
    assert np.sum(gradient * direction) == pytest.approx(difference, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("net", "name"), [(net, name) for net in beyond.NETS for name in beyond.kinds(4, net)])
def test_beyond_training_moves_every_parameter(net, name):
    data = beyond.data()
    network = beyond.build(net, beyond.kinds(4)[name], 4, 2, (8, 8), 0)
    before = [{key: value.copy() for key, value in layer.params.items()} for layer in network.layers]
    train_step(network, SGD(network.layers, 0.1).step, data.train_images[:8], data.train_labels[:8])
    convolutions = sum("weight" in p or "v" in p for p in before if any(v.ndim == 4 for v in p.values()))
    assert convolutions == {beyond.RESIDUAL: 5, beyond.PLAIN: 3}[net]
    for layer, old in zip(network.layers, before, strict=True):
        for key, value in old.items():
            assert (layer.params[key] != value).any(), key


def test_beyond_equal_seeds_give_equal_weights():
    first, second = (
        beyond.build(beyond.PLAIN, beyond.kinds(4)[name], 4, 2, (8, 8), 5) for name in ("no norm", "layer norm")
    )
    weights = [
        [x.params["weight"] for x in net.layers if "weight" in x.params and x.params["weight"].ndim > 1]
        for net in (first, second)
    ]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_beyond_group_sizes():
    assert beyond.group_sizes(32) == [1, 2, 4, 8, 16, 32]
    assert group(1, 32).norm(32).num_groups == 32
    assert group(32, 32).norm(32).num_groups == 1
    assert group(4, 32).norm(32).num_groups == 8


def test_beyond_gain_of_relu():
    z = np.maximum(np.random.default_rng(0).standard_normal(1_000_000), 0)
    assert z.var() == pytest.approx(RELU_VARIANCE, abs=4 * (z**2).std() / 1000)


def test_beyond_table(quick):
    page, numbers, _ = quick("beyond")
    values = [numbers[f"initial | plain | layer norm | {seed}"]["similarity"] for seed in range(2)]
    assert row(page, "(b), (c)", "layer norm")[1] == spread(values)
    gradients = [numbers[f"initial | plain | instance norm | {seed}"]["gradient"] for seed in range(2)]
    assert row(page, "(b), (c)", "instance norm")[5] == spread([g[0] / g[-1] for g in gradients])
