"""How far a model reads and what it forgot: losses and retrieval, for any model folder."""
