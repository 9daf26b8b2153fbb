"""Layers equal PyTorch's, from a state dict of theirs; where torch is installed.

float64 on both sides, values below 10 and sums of at most 90 terms: 90 · 10 · 2^-53 = 1e-13, a few times.
"""

import numpy as np
import pytest

import normkit as nk
from layer_cases import data

torch = pytest.importorskip("torch")
nn = torch.nn
ATOL = 1e-12

PAIRS = {
    "BatchNorm": (lambda: nn.BatchNorm2d(6), lambda: nk.BatchNorm(6, dtype="float64")),
    "BatchNorm cumulative": (
        lambda: nn.BatchNorm2d(6, momentum=None, eps=1e-3),
        lambda: nk.BatchNorm(6, momentum=None, eps=1e-3, dtype="float64"),
    ),
    "BatchNorm of batches": (
        lambda: nn.BatchNorm2d(6, track_running_stats=False),
        lambda: nk.BatchNorm(6, track_running_stats=False, dtype="float64"),
    ),
    "BatchNorm without affine": (
        lambda: nn.BatchNorm2d(6, affine=False),
        lambda: nk.BatchNorm(6, affine=False, dtype="float64"),
    ),
    "GroupNorm": (lambda: nn.GroupNorm(3, 6), lambda: nk.GroupNorm(3, 6, dtype="float64")),
    "InstanceNorm": (lambda: nn.InstanceNorm2d(6, affine=True), lambda: nk.InstanceNorm(6, dtype="float64")),
    "InstanceNorm tracking": (
        lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
        lambda: nk.InstanceNorm(6, track_running_stats=True, dtype="float64"),
    ),
    "LayerNorm": (lambda: nn.LayerNorm((5, 3)), lambda: nk.LayerNorm((5, 3), dtype="float64")),
    "LayerNorm without bias": (
        lambda: nn.LayerNorm(3, bias=False),
        lambda: nk.LayerNorm(3, bias=False, dtype="float64"),
    ),
    "LayerNorm without affine": (
        lambda: nn.LayerNorm((6, 5, 3), elementwise_affine=False),
        lambda: nk.LayerNorm((6, 5, 3), affine=False, dtype="float64"),
    ),
    "RMSNorm": (lambda: nn.RMSNorm((5, 3), eps=1e-6), lambda: nk.RMSNorm((5, 3), dtype="float64")),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equals_torch(name):
    theirs, ours = (build() for build in PAIRS[name])
    theirs = theirs.double()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.from_numpy(rng.uniform(-2, 2, tuple(p.shape))))
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    for step in range(6):
        training = step not in (2, 5)
        theirs.train(training)
        ours.train(training)
        x, dy = data(np.float64, seed=step)
        tensor = torch.from_numpy(x.copy()).requires_grad_()
        theirs.zero_grad()
        expected = theirs(tensor)
        expected.backward(torch.from_numpy(dy))
        np.testing.assert_allclose(ours(x), expected.detach().numpy(), rtol=0, atol=ATOL)
        np.testing.assert_allclose(ours.backward(dy), tensor.grad.numpy(), rtol=0, atol=ATOL)
        assert {key for key, _ in theirs.named_parameters()} == set(ours.grads)
        for key, p in theirs.named_parameters():
            np.testing.assert_allclose(ours.grads[key], p.grad.numpy(), rtol=0, atol=10 * ATOL, err_msg=key)
        state = ours.state_dict()
        assert set(state) == set(theirs.state_dict())
        for key, value in theirs.state_dict().items():
            if (name, key) != ("InstanceNorm tracking", "num_batches_tracked"):  # theirs never counts
                np.testing.assert_allclose(state[key], value.numpy(), rtol=0, atol=ATOL, err_msg=key)


@pytest.mark.parametrize("name", PAIRS)
def test_their_layer_loads_our_state(name):
    theirs, ours = (build() for build in PAIRS[name])
    ours(data(np.float64)[0])
    theirs.double().load_state_dict({key: torch.from_numpy(value) for key, value in ours.state_dict().items()})
    x, _ = data(np.float64, seed=1)
    expected = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours.eval()(x), expected, rtol=0, atol=ATOL)


def test_weight_norm_equals_torch():
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((5, 4)), torch.from_numpy(rng.standard_normal((3, 4)))
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5, bias=False).double())
    ours = nk.WeightNorm(w)
    ours.params["weight_g"] *= 1.5
    theirs = linear.parametrizations.weight
    with torch.no_grad():
        theirs.original0.copy_(torch.from_numpy(ours.params["weight_g"]))
        theirs.original1.copy_(torch.from_numpy(ours.params["weight_v"]))
    np.testing.assert_allclose(ours(), linear.weight.detach().numpy(), rtol=0, atol=ATOL)
    loaded = nk.WeightNorm(np.ones_like(w))
    loaded.load_state_dict({key: value.numpy() for key, value in linear.state_dict().items()})
    np.testing.assert_array_equal(loaded(), ours())
    linear(x).square().sum().backward()
    ours.backward(2 * (x.numpy() @ ours().T).T @ x.numpy())
    np.testing.assert_allclose(ours.grads["weight_g"], theirs.original0.grad.numpy(), rtol=0, atol=10 * ATOL)
    np.testing.assert_allclose(ours.grads["weight_v"], theirs.original1.grad.numpy(), rtol=0, atol=10 * ATOL)


def test_spectral_norm_equals_torch():
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((5, 4)), torch.from_numpy(rng.standard_normal((3, 4)))
    linear = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5, bias=False).double())
    ours, theirs = nk.SpectralNorm(w), linear.parametrizations.weight
    with torch.no_grad():
        theirs.original.copy_(torch.from_numpy(w))
        theirs[0]._u.copy_(torch.from_numpy(ours.weight_u))
        theirs[0]._v.copy_(torch.from_numpy(ours.weight_v))
    for training in (True, True, False):
        linear.train(training)
        ours.train(training)
        expected = linear.weight
        np.testing.assert_allclose(ours(), expected.detach().numpy(), rtol=0, atol=ATOL)
        np.testing.assert_allclose(ours.weight_u, theirs[0]._u.numpy(), rtol=0, atol=ATOL)
        np.testing.assert_allclose(ours.weight_v, theirs[0]._v.numpy(), rtol=0, atol=ATOL)
    linear(x).square().sum().backward()
    ours.backward(2 * (x.numpy() @ ours().T).T @ x.numpy())
    np.testing.assert_allclose(ours.grads["weight_orig"], theirs.original.grad.numpy(), rtol=0, atol=10 * ATOL)
