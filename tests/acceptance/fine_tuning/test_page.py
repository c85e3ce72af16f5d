"""The page on fine-tuning says what happens: its program runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.extending.product import Product
from tests.acceptance.fine_tuning.asking import BASE

PAGE = Path(__file__).parents[3] / "docs" / "fine_tuning.md"


def test_the_page_s_program_teaches_a_chain_and_asks_it(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    """On another server and another base, and with nothing else changed."""
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    for there, here in (
        ("http://127.0.0.1:8000", product.url),
        ('BASE = "smollm2-135m"', f'BASE = "{BASE}"'),
    ):
        assert there in program
        program = program.replace(there, here)
    exec(compile(program, str(PAGE), "exec"), {})  # noqa: S102  # our own page
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Step 20/20: training loss=") for line in told)
    assert told[-1].startswith(f"{BASE}:sailor@1 says: ")
