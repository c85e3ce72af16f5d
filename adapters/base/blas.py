"""A fast BLAS for MLX on Linux CPUs. Placeholder until the base part lands."""


def preload() -> None:
    """Nothing yet."""
