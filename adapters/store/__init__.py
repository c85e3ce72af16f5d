"""Durable truth: chains, stages, revisions, data sets and events of one data directory."""

from adapters.store.store import Store

__all__ = ["Store"]
