"""LoRA while serving: the routed layer, the routes of a batch and the bank of resident adapters."""

from adapters.lora.bank import AdapterBank
from adapters.lora.resident import ResidentAdapter
from adapters.lora.router import Router

__all__ = ["AdapterBank", "ResidentAdapter", "Router"]
