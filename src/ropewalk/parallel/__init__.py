"""Start ranks, lay them out as a mesh, and shard models over them."""
