"""Exact attention over documents and context ranks: partition x exchange x kernel. Knows no model class."""

from ropewalk.attention.choose_kernel import use_kernel
from ropewalk.attention.context_parallel import attend

__all__ = ["attend", "use_kernel"]
