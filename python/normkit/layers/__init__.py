"""Layers: a norm with its parameters, gradients and state, for networks written in plain NumPy."""

from normkit.layers._layer import Layer
from normkit.layers.adain import AdaptiveInstanceNorm
from normkit.layers.batch import BatchNorm
from normkit.layers.group import GroupNorm
from normkit.layers.instance import InstanceNorm
from normkit.layers.layer import LayerNorm
from normkit.layers.renorm import BatchRenorm
from normkit.layers.rms import RMSNorm

__all__ = [
    "AdaptiveInstanceNorm",
    "BatchNorm",
    "BatchRenorm",
    "GroupNorm",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "RMSNorm",
]
