"""Layers: a norm with its parameters, gradients and state, for networks written in plain NumPy.

`BatchNorm`, `BatchRenorm`, `GroupNorm`, `InstanceNorm`, `LayerNorm` and `RMSNorm` are each a `Layer`: one array in, one
out. `AdaptiveInstanceNorm` takes two. `WeightNorm`, `SpectralNorm` and `ScaledWeightStandardization` compute the weight
of some other layer from parameters of their own. All have `params`, `grads`, `zero_grad`, `train`, `eval`, `state_dict`
and `load_state_dict`.
"""

from normkit.layers._layer import Layer
from normkit.layers.adain import AdaptiveInstanceNorm
from normkit.layers.batch import BatchNorm
from normkit.layers.group import GroupNorm
from normkit.layers.instance import InstanceNorm
from normkit.layers.layer import LayerNorm
from normkit.layers.renorm import BatchRenorm
from normkit.layers.rms import RMSNorm
from normkit.layers.spectral_norm import SpectralNorm
from normkit.layers.standardization import ScaledWeightStandardization
from normkit.layers.weight_norm import WeightNorm

__all__ = [
    "AdaptiveInstanceNorm",
    "BatchNorm",
    "BatchRenorm",
    "GroupNorm",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "RMSNorm",
    "ScaledWeightStandardization",
    "SpectralNorm",
    "WeightNorm",
]
