"""The interface to transformers: load a model, extend it, attend, compute the loss, export it.

``load_model`` loads a folder strictly. The functions ``extend``, ``export`` and ``parallelize`` stand in the files of
their names; ``parallelize`` makes a supported model context-parallel, and ``ContextParallelTrainer`` trains it as
transformers' Trainer does. No other room imports transformers.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.model.export_parity import verify_export as verify_export
    from ropewalk.model.export_parity import verify_generation as verify_generation
    from ropewalk.model.load import load_model as load_model
    from ropewalk.model.loss import chunked_cross_entropy as chunked_cross_entropy
    from ropewalk.model.model_with_loss import ModelWithLoss as ModelWithLoss
    from ropewalk.model.parallelize import ContextParallel as ContextParallel
    from ropewalk.model.trainer import ContextParallelTrainer as ContextParallelTrainer
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "load": ("load_model",),
            "loss": ("chunked_cross_entropy",),
            "model_with_loss": ("ModelWithLoss",),
            "parallelize": ("ContextParallel",),
            "trainer": ("ContextParallelTrainer",),
            "export_parity": ("verify_export", "verify_generation"),
        },
    )
