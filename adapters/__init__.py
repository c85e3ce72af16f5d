"""Adapter management: what an adapter is, where it lives, how it grows.

Importing this package prepares the process for MLX, which must happen before the first import of
``mlx`` anywhere in it.
"""

from adapters.base.blas import preload

preload()
