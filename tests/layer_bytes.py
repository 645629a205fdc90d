"""Bytes that autograd keeps of a layer without recomputation, by the plan; each layer is asked for its own."""

from statistics import fmean

from ropewalk.plan.saved_tensors import stored_layer_bytes
from ropewalk.shape.model_shape import ModelShape


def stored_block_bytes(shape: ModelShape, tokens: int, *, element_bytes: int = 2) -> float:
    """In the mean over layers."""
    return fmean(stored_layer_bytes(shape, layer, tokens, element_bytes=element_bytes) for layer in range(shape.layers))


def largest_block_bytes(shape: ModelShape, tokens: int) -> float:
    """Of the layer that keeps most."""
    return max(stored_layer_bytes(shape, layer, tokens) for layer in range(shape.layers))
