"""The engine: everything that touches MLX while serving, on one device thread."""
