"""What MLX holds, counted so that two counts in one test can be compared."""

import gc

import mlx.core as mx

__all__ = ["active_memory"]


def active_memory() -> int:
    """Bytes that reachable arrays hold.

    An earlier test's arrays may still hang in a reference cycle, and would be freed between two
    counts: they are collected first.
    """
    gc.collect()
    return mx.get_active_memory()
