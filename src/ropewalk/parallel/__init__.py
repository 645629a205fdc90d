"""Ranks, meshes and sharded models."""
