"""Exact attention over packed documents and context-parallel ranks: partition x exchange x kernel.

``attend`` takes the local queries, keys and values of a rank, and the partition of the batch; ``attend_latents`` also
what keys and values were made from. Ring, all-gather, sparse
all-to-all and Ulysses are ways to exchange keys; the kernels are FlashAttention, cuDNN, flex and plain torch. The room
knows no model class.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.attention.bias import Alibi as Alibi
    from ropewalk.attention.bias import Fire as Fire
    from ropewalk.attention.bias import alibi_slopes as alibi_slopes
    from ropewalk.attention.choose_kernel import use_kernel as use_kernel
    from ropewalk.attention.context_parallel import attend as attend
    from ropewalk.attention.context_parallel import attend_latents as attend_latents
    from ropewalk.attention.recompute_cache import cache_attention as cache_attention
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "bias": ("Alibi", "Fire", "alibi_slopes"),
            "choose_kernel": ("use_kernel",),
            "context_parallel": ("attend", "attend_latents"),
            "recompute_cache": ("cache_attention",),
        },
    )
