"""The pure core: names, messages, ports and schedule. Standard library only, no I/O, no clock."""
