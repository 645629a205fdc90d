"""A model's shape, read from its config.json alone: layers, heads, windows, vocabulary, and each layer's positions.

Both forms of config.json are read, that of transformers 4 and that of transformers 5, and new positions are written in
both. Needs no torch.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.shape.find import find_model as find_model
    from ropewalk.shape.layer_keys import spell_layers as spell_layers
    from ropewalk.shape.model_shape import ModelShape as ModelShape
    from ropewalk.shape.read import parse_shape as parse_shape
    from ropewalk.shape.read import read_shape as read_shape
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "find": ("find_model",),
            "layer_keys": ("spell_layers",),
            "model_shape": ("ModelShape",),
            "read": ("parse_shape", "read_shape"),
        },
    )
