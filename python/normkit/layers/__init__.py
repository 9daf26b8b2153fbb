"""Layers: a norm with its parameters, gradients and state, for networks written in plain NumPy."""

from normkit.layers._layer import Layer
from normkit.layers.batch import BatchNorm
from normkit.layers.group import GroupNorm

__all__ = ["BatchNorm", "GroupNorm", "Layer"]
