"""Make the two small tasks of ``examples/stages`` from our own templates.

``make_example_data.py [OUT]``. Task one tags a support ticket with one of six words, and answers
nothing else; task two writes an order in a made-up form.
The same files come out every time, and no held-out ticket or order is among the training rows: the
held-out tickets are worded otherwise, the held-out orders name goods and towns that no training row
has.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

TAG, NOTE = "Tag the ticket.", "Note the order."
"""What the model is told to do, in the place of the template's long default."""
OUT = Path(__file__).resolve().parents[1] / "examples" / "stages"
SEED = "chainlora examples 1"
TRAIN, HELD_OUT = 180, 40

Item = TypeVar("Item")
Pair = tuple[str, str]

TICKETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # tag: (complaints to learn from, complaints to be asked about)
    "billing": (
        (
            "I was charged twice for the same invoice",
            "the invoice shows a price that I never agreed to",
            "my card was charged although I paid by bank transfer",
            "the refund for last month has not reached my account",
            "I need a copy of the invoice for my tax papers",
            "you took a payment after I had already paid",
            "the bill has the wrong company name on it",
            "the discount is missing from my bill",
            "the amount on the receipt is higher than in the shop",
            "please tell me when you will pay back the deposit",
        ),
        (
            "I was charged two times this month",
            "the bill is higher than the price that I was told",
            "I still wait for the refund of my payment",
            "the invoice has the wrong amount",
        ),
    ),
    "login": (
        (
            "I cannot log in since this morning",
            "the login page says that my password is wrong",
            "the link to reset my password has expired",
            "my account is locked after three attempts",
            "I never get the code that I need to sign in",
            "my user name is no longer known to the login page",
            "signing in with my new phone does not work",
            "I forgot my password and the reset mail does not come",
            "the page sends me back to the login again and again",
            "somebody else has signed in to my account",
        ),
        (
            "the login does not accept my password",
            "I cannot sign in to my account any more",
            "my password reset does not work",
            "my account is locked and I cannot log in",
        ),
    ),
    "delivery": (
        (
            "my parcel has not arrived after two weeks",
            "the tracking page has not changed since Monday",
            "the courier left the parcel at the wrong house",
            "the delivery was promised for Friday and did not come",
            "the parcel was sent to my old address",
            "the driver says that nobody was at home",
            "the shipment is stuck at the border",
            "I would like the delivery to come in the evening",
            "the tracking number does not exist",
            "only one of the two parcels was delivered",
        ),
        (
            "my parcel is late and the tracking shows nothing",
            "the courier did not deliver my parcel",
            "the delivery went to the wrong address",
            "the shipment has not arrived yet",
        ),
    ),
    "damage": (
        (
            "the lamp was broken when I opened the box",
            "the screen has a deep scratch",
            "one leg of the chair is cracked",
            "the glass arrived in a hundred pieces",
            "the kettle leaks at the bottom",
            "the zip of the jacket is torn",
            "the table has a dent on one side",
            "the handle came off on the first day",
            "the plates are chipped at the edge",
            "the clock is damaged and does not run",
        ),
        (
            "the mirror was broken in its box",
            "the vase has a crack and leaks",
            "the handle of the pan is damaged",
            "the shelf has scratches and a dent",
        ),
    ),
    "bug": (
        (
            "the app crashes when I open the camera",
            "the app closes itself after the update",
            "the screen of the app stays white",
            "the new version of the app freezes on my tablet",
            "the app shows an error when I save a file",
            "the update stops at ninety percent",
            "the program is very slow since the last version",
            "the search in the app finds nothing at all",
            "the app drains the battery in an hour",
            "a button in the app does nothing when I press it",
        ),
        (
            "the app freezes after the last update",
            "the app crashes when I press the search button",
            "the new version shows an error and closes",
            "the app is slow and its screen stays white",
        ),
    ),
    "cancel": (
        (
            "I want to cancel my subscription",
            "please end my contract at the end of the year",
            "how do I stop the monthly plan",
            "please close my membership for good",
            "I do not want to renew the contract",
            "the trial should not turn into a subscription",
            "I would like to leave and cancel everything",
            "please confirm that my plan has been cancelled",
            "I cancel my membership with this message",
            "stop the automatic renewal of my plan",
        ),
        (
            "please cancel my plan at the end of the month",
            "I want to end my membership",
            "do not renew my subscription",
            "I would like to cancel the contract",
        ),
    ),
}
OPENINGS = ("", "Hello, ", "Hi team, ", "Dear support, ")
CLOSINGS = ("", " Thanks.", " Please help.", " What now?")

GOODS = (
    "apples", "nails", "candles", "blankets", "oranges", "bricks", "plates", "pencils",
    "carrots", "gloves", "tiles", "bottles", "onions", "chairs", "ropes", "mirrors",
    "lemons", "buckets", "tables", "boots",
)  # fmt: skip
OTHER_GOODS = ("pears", "screws", "lamps", "towels", "cups", "books", "shoes", "potatoes")
TOWNS = (
    "Lyon", "Cork", "Leeds", "Basel", "Vienna", "Prague", "Athens", "Lisbon",
    "Naples", "Venice", "Warsaw", "Munich", "Zurich", "Geneva",
)  # fmt: skip
OTHER_TOWNS = ("Oslo", "Milan", "Bath", "Hamburg", "Glasgow", "Dublin")
BOXES = ("boxes", "crates", "bags", "pallets")
ORDERS = (
    "We need {count} {boxes} of {goods} in {town}.",
    "Please send {count} {boxes} of {goods} to {town}.",
    "Today {town} asks for {count} {boxes} of {goods}.",
    "Can you bring {count} {boxes} of {goods} to our shop in {town}?",
    "The shop in {town} ordered {count} {boxes} of {goods}.",
)


class Draw:
    """Choices that are the same in every version of Python: all of them come from ``random()``."""

    def __init__(self, name: str) -> None:
        self._random = random.Random(f"{SEED} {name}").random

    def choice(self, items: Sequence[Item]) -> Item:
        """One of ``items``."""
        return items[int(self._random() * len(items))]

    def number(self, low: int, high: int) -> int:
        """From ``low`` to ``high``, both included."""
        return low + int(self._random() * (high - low + 1))


def ticket(draw: Draw, tag: str, complaints: Sequence[str]) -> Pair:
    """A ticket and its tag."""
    opening, complaint = draw.choice(OPENINGS), draw.choice(complaints)
    if not opening:
        complaint = complaint[0].upper() + complaint[1:]
    return f"{opening}{complaint}.{draw.choice(CLOSINGS)}", tag


def tickets(name: str, count: int, *, held_out: bool) -> list[Pair]:
    """``count`` different tickets, the tags in turn."""
    draw, found = Draw(name), dict[str, str]()
    tags = list(TICKETS)
    while len(found) < count:
        tag = tags[len(found) % len(tags)]
        prompt, answer = ticket(draw, tag, TICKETS[tag][held_out])
        found[prompt] = answer
    return list(found.items())


def orders(name: str, count: int, goods: Sequence[str], towns: Sequence[str]) -> list[Pair]:
    """``count`` different orders."""
    draw, found = Draw(name), dict[str, str]()
    while len(found) < count:
        number, what, where = draw.number(2, 99), draw.choice(goods), draw.choice(towns)
        text = draw.choice(ORDERS).format(
            count=number, boxes=draw.choice(BOXES), goods=what, town=where
        )
        found[text] = f"{number} {what} > {where}"
    return list(found.items())


def tasks() -> dict[str, tuple[str, list[Pair]]]:
    """Instruction, and (prompt, answer) pairs, by file name."""
    return {
        "task_one.train": (TAG, tickets("one", TRAIN, held_out=False)),
        "task_one.heldout": (TAG, tickets("one held out", HELD_OUT, held_out=True)),
        "task_two.train": (NOTE, orders("two", TRAIN, GOODS, TOWNS)),
        "task_two.heldout": (NOTE, orders("two held out", HELD_OUT, OTHER_GOODS, OTHER_TOWNS)),
    }


def to_jsonl(instruction: str, pairs: Sequence[Pair]) -> str:
    """The pairs as rows of chat."""
    rows = (
        {
            "messages": [
                {"role": "system", "content": instruction},
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
        }
        for prompt, answer in pairs
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=OUT, help="directory of the files")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, (instruction, pairs) in tasks().items():
        (out / f"{name}.jsonl").write_text(to_jsonl(instruction, pairs), "utf-8")
        print(f"{name}: {len(pairs)} rows, for example {pairs[0]}")


if __name__ == "__main__":
    main()
