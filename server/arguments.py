"""How every command reads its arguments."""

from __future__ import annotations

import argparse
from typing import NoReturn


class UsageError(Exception):
    """The arguments cannot be understood; ``str()`` says which and how to mend them."""


class CommandFailed(Exception):
    """The command understood its arguments and could not do it; ``str()`` says why."""


class Parser(argparse.ArgumentParser):
    """argparse without its own exit and without guessing at abbreviations."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"chainlora {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; '{self.prog} --help' lists the options")
