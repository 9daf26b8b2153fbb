"""What PyTorch needs several calls for. Under the names that the code of the table (ops.py) uses."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F  # noqa: N812

aten = torch.ops.aten
ALL = [True, True, True]
like = torch.empty_like
rms_norm = lambda x, w, eps: F.rms_norm(x, w.shape, w, eps)  # noqa: E731


def autograd(function: Callable, *inputs: torch.Tensor, leaves: Iterable = (), **constants) -> Callable:
    """The backward alone, of a forward that has been run: where there is no kernel to call."""
    with torch.enable_grad():
        given = [a.detach().requires_grad_() for a in inputs]
        y = function(*given, **constants)
        leaves = [*given, *leaves]
    return lambda dy: torch.autograd.grad(y, leaves, dy, retain_graph=True)


def compiled(function: Callable) -> Callable:
    """By inductor, for shapes as they are: a new graph for each."""
    torch._dynamo.reset()
    torch._functorch.config.donated_buffer = False  # the graph is kept, as `autograd` does
    return torch.compile(function, dynamic=False)


def batch_norm(rm: torch.Tensor, rv: torch.Tensor, momentum: float, eps: float) -> Callable:
    return lambda x, w, b: F.batch_norm(x, rm, rv, w, b, True, momentum, eps)


def batch_norm_relu(rm: torch.Tensor, rv: torch.Tensor, momentum: float, eps: float) -> Callable:
    """Batch norm + add + ReLU."""
    return lambda x, w, b, residual: F.relu(F.batch_norm(x, rm, rv, w, b, True, momentum, eps) + residual)


class Channels(torch.nn.BatchNorm1d):
    """For any number of axes; PyTorch's classes differ in nothing else."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass


def batch_norm_module(w: torch.Tensor, b: torch.Tensor) -> torch.nn.Module:
    module = Channels(len(w))
    module.weight.data, module.bias.data = w.clone(), b.clone()
    return module


def autograd_of_module(module: torch.nn.Module, x: torch.Tensor) -> Callable:
    """The gradients of x and of the module's parameters."""
    return autograd(lambda x, *_: module(x), x, leaves=module.parameters())


def one(x: torch.Tensor) -> torch.Tensor:
    """(N, C, …) as one sample of N·C channels."""
    return x.reshape(1, -1, *x.shape[2:])


def instance_norm_backward(dy, x, w, mean, rstd, eps) -> tuple[torch.Tensor, ...]:
    N, C = x.shape[:2]
    found = aten.native_batch_norm_backward(one(dy), one(x), w.repeat(N), None, None, mean, rstd, True, eps, ALL)
    dx, dw, db = found
    return dx.view(x.shape), dw.view(N, C).sum(0), db.view(N, C).sum(0)


def adaptive_instance_norm(content: torch.Tensor, style: torch.Tensor, eps: float) -> torch.Tensor:
    """The style's statistics as the parameters of a batch norm of one sample: faster than a chain of maps."""
    var, mean = torch.var_mean(style, dim=(2, 3), correction=0)
    std = torch.sqrt(var + eps)
    return F.batch_norm(one(content), None, None, std.view(-1), mean.view(-1), True, 0.0, eps).view(content.shape)


def batch_norm_relu_backward(dy, y, x, w, rm, rv, mean, rstd, eps) -> tuple[torch.Tensor, ...]:
    """Of batch norm + add + ReLU: the residual's gradient is what the ReLU lets through."""
    dresidual = aten.threshold_backward(dy, y, 0)
    return (*aten.native_batch_norm_backward(dresidual, x, w, rm, rv, mean, rstd, True, eps, ALL), dresidual)


def spectral_norm(weight: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """As `torch.nn.utils.parametrizations.spectral_norm` with one step; u and v stay as they are."""
    matrix = weight.flatten(1)
    with torch.no_grad():
        u = F.normalize(torch.mv(matrix, v), dim=0, eps=1e-12)
        v = F.normalize(torch.mv(matrix.t(), u), dim=0, eps=1e-12)
    return weight / torch.dot(u, torch.mv(matrix, v))


def scaled_weight_standardization(weight: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    axes, fan_in = tuple(range(1, weight.ndim)), weight[0].numel()
    var, mean = torch.var_mean(weight, dim=axes, correction=0, keepdim=True)
    scale = gain * torch.rsqrt(torch.clamp(var * fan_in, min=1e-4))
    return torch.addcmul(-mean * scale, weight, scale)
