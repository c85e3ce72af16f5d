"""Adapter files: reading them without trusting them."""
