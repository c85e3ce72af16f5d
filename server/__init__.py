"""Serving: HTTP in, tokens out."""
