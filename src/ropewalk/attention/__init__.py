"""Exact attention over rows that are cut over ranks: partition x exchange x kernel. Knows no model class."""
