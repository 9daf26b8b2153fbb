"""The shortest complete training with normkit: a linear layer, batch norm, ReLU and a linear layer, in plain NumPy."""

import numpy as np
from sklearn.datasets import load_digits

import normkit as nk

x, labels = load_digits(return_X_y=True)
x, targets = (x / 16).astype(np.float32), np.eye(10, dtype=np.float32)[labels]

rng = np.random.default_rng(0)
w1 = rng.normal(0, 0.1, (64, 128)).astype(np.float32)
w2 = rng.normal(0, 0.1, (128, 10)).astype(np.float32)
gamma, beta = np.ones(128, np.float32), np.zeros(128, np.float32)
mean, var = np.zeros(128, np.float32), np.ones(128, np.float32)  # running statistics, updated in place

for _ in range(500):
    batch = rng.integers(0, 1500, 32)
    z, cache = nk.batch_norm(x[batch] @ w1, gamma, beta, mean, var)
    hidden = np.maximum(z, 0)
    scores = np.exp(hidden @ w2)
    dlogits = (scores / scores.sum(axis=1, keepdims=True) - targets[batch]) / 32  # of softmax and cross entropy

    dz = dlogits @ w2.T * (z > 0)
    grad = nk.batch_norm_backward(dz, cache)
    gradients = (x[batch].T @ grad.dx, hidden.T @ dlogits, grad.dweight, grad.dbias)
    for parameter, gradient in zip((w1, w2, gamma, beta), gradients, strict=True):
        parameter -= 0.1 * gradient

hidden = np.maximum(nk.batch_norm_inference(x[1500:] @ w1, mean, var, gamma, beta), 0)
print(f"accuracy on 297 unseen digits: {np.mean((hidden @ w2).argmax(axis=1) == labels[1500:]):.1%}")
