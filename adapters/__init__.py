"""Adapter management: what an adapter is, where it lives, how it grows.

Importing this package prepares the process for MLX, which must happen before the first import of
``mlx`` anywhere in it.
"""

from adapters.base.blas import preload

preload()

__all__ = ["foreign_distribution"]


def foreign_distribution() -> str | None:
    """Name and version of another distribution whose import name is ``adapters``, if installed.

    PyPI has one. It and chainlora cannot share an environment: whichever was installed last has
    overwritten files of the other.
    """
    import importlib.metadata

    try:
        return f"adapters {importlib.metadata.version('adapters')}"
    except importlib.metadata.PackageNotFoundError:
        return None
