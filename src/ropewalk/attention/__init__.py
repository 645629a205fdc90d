"""Exact attention over documents and context ranks: partition x exchange x kernel. Knows no model class."""

from ropewalk.attention.context_parallel import attend
from ropewalk.attention.kernels import use_kernel

__all__ = ["attend", "use_kernel"]
