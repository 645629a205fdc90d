"""The length that a model reads and the abilities that it lost: losses and retrieval, for any model folder."""
