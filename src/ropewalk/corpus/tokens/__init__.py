"""Token ids: tokenizers, the memory-mapped store, other trainers' file formats."""
