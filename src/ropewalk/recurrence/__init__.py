"""Exact recurrent layers over packed documents and context-parallel ranks: partition x exchange x kernel.

``scan`` takes the local queries, keys, values and decays of a rank, and the partition of the batch; ``convolve`` the
rows and taps of a causal convolution. Each document begins with a state of zero. Ranks exchange what a segment does to
a state, and never tokens, but for the few rows before a segment that a convolution reads. The room knows no model
class.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.recurrence.convolution import convolve as convolve
    from ropewalk.recurrence.installed_kernels import describe_recurrent_kernels as describe_recurrent_kernels
    from ropewalk.recurrence.installed_kernels import use_recurrent_kernels as use_recurrent_kernels
    from ropewalk.recurrence.segment_scan import scan as scan
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "convolution": ("convolve",),
            "installed_kernels": ("describe_recurrent_kernels", "use_recurrent_kernels"),
            "segment_scan": ("scan",),
        },
    )
