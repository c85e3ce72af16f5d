"""An import-linter contract: pure code imports the standard library and pure code alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

STANDARD_LIBRARY = sys.stdlib_module_names
NEVER_PURE = frozenset({"sqlite3", "socket", "subprocess", "http", "urllib", "asyncio"})
"""Standard library that does input and output."""


def is_within(module: str, package: str) -> bool:
    """Whether ``module`` is ``package`` or lies in it."""
    return module == package or module.startswith(f"{package}.")


def is_pure(module: str, *, pure: Iterable[str], impure: Iterable[str]) -> bool:
    """Whether the longest prefix of ``module`` in either list is in ``pure``."""
    longest = max((name for name in pure if is_within(module, name)), key=len, default="")
    return bool(longest) and not any(
        is_within(module, name) and len(name) > len(longest) for name in impure
    )


class PureContract(Contract):
    """Keeps the modules under ``pure``, less those under ``impure``, free of other code.

    A pure module may import the standard library, except for what does input and output, and
    pure modules of its own root package. ``exceptions`` are single imports, "importer -> imported".
    Names that match no module yet are allowed.
    """

    type_name = "pure"

    # The base class reads the field off the class and puts the list on the instance.
    pure = cast("list[str]", fields.ListField(subfield=fields.StringField()))
    impure = cast("list[str]", fields.ListField(subfield=fields.StringField()))
    exceptions = cast("list[str]", fields.ListField(subfield=fields.StringField()))

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002
        """Look at every direct import: purity is transitive by itself."""
        illegal = [
            (module, imported)
            for module in sorted(graph.modules)
            if is_pure(module, pure=self.pure, impure=self.impure)
            for imported in sorted(graph.find_modules_directly_imported_by(module))
            if f"{module} -> {imported}" not in self.exceptions
            and not self._may_import(module, imported)
        ]
        return ContractCheck(kept=not illegal, metadata={"illegal": illegal})

    def _may_import(self, module: str, imported: str) -> bool:
        root = imported.partition(".")[0]
        if root == module.partition(".")[0]:
            return is_pure(imported, pure=self.pure, impure=self.impure)
        return root in STANDARD_LIBRARY and root not in NEVER_PURE

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name each import that has to go."""
        for module, imported in check.metadata["illegal"]:
            output.print_error(f"{module} is pure and imports {imported}", bold=False)
        output.new_line()
