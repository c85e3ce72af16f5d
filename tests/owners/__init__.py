"""Adapter formats against the libraries that own them: mlx-lm, and PEFT in a process of its own."""
