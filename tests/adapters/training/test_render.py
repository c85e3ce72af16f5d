"""What is learned from a row: the answers, after the very prompts that serving makes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base.tokenizer import BaseTokenizer, load_tokenizer
from adapters.training.batches import Example
from adapters.training.jsonl import BadLine
from adapters.training.render import Renderer
from adapters.training.rows import ChatRow, TextRow
from tests.adapters.training import templates

# What is left out here, the embedded model's vocabulary lacks bytes of.
WORDS = st.text(
    st.characters(codec="utf-8", max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"]),
    min_size=1,
    max_size=30,
)

Told = tuple[str, str]
Make = Callable[[str | None], BaseTokenizer]


@functools.cache
def loaded(path: Path) -> BaseTokenizer:
    """A model's tokenizer, loaded once."""
    return load_tokenizer(path)


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Make:
    """The tiny tokenizer under a chat template."""
    return lambda template: templates.with_template(tiny_model, tmp_path / "model", template)


def messages_of(*told: Told) -> tuple[dict[str, Any], ...]:
    """Messages from (role, content)."""
    return tuple({"role": role, "content": content} for role, content in told)


def chat(*told: Told, skipped: tuple[int, ...] = ()) -> ChatRow:
    """A row that learns every answer but those at ``skipped``."""
    learned = tuple(
        role == "assistant" and index not in skipped for index, (role, _) in enumerate(told)
    )
    return ChatRow(3, messages_of(*told), learned)


def render(tokenizer: BaseTokenizer, row: ChatRow | TextRow, most: int = 4096) -> list[Example]:
    """The row's examples."""
    return list(Renderer(tokenizer, max_seq_length=most).render(row))


def learned_in(tokenizer: BaseTokenizer, example: Example) -> list[str]:
    """The runs of learned tokens as text."""
    assert len(example.tokens) == len(example.mask)
    runs: list[list[int]] = []
    before = False
    for token, learned in zip(example.tokens, example.mask, strict=True):
        if learned and not before:
            runs.append([])
        if learned:
            runs[-1].append(token)
        before = learned
    return [tokenizer._decode(run) for run in runs]


TALK = (
    ("system", "Be brief."),
    ("user", "Where is the boat?"),
    ("assistant", "In the harbour."),
    ("user", "And the bread?"),
    ("assistant", "On the table."),
)


@pytest.mark.parametrize("model", ["tiny_model", "embedded_model"])
def test_every_answer_is_learned_with_the_token_that_ends_it(
    model: str, request: pytest.FixtureRequest
) -> None:
    """And nothing else: no system, no user, no line break after the end of a turn."""
    tokenizer = loaded(request.getfixturevalue(model))
    (example,) = render(tokenizer, chat(*TALK))
    assert learned_in(tokenizer, example) == [
        "In the harbour.<|im_end|>",
        "On the table.<|im_end|>",
    ]
    assert example.line == 3
    assert example.tokens[-1] == tokenizer.end_token
    assert example.mask[-1]


@pytest.mark.parametrize("model", ["tiny_model", "embedded_model"])
def test_a_prompt_is_what_serving_makes_of_the_messages_before(
    model: str, request: pytest.FixtureRequest
) -> None:
    """Token for token, at every answer; also where the template adds a system message."""
    tokenizer = loaded(request.getfixturevalue(model))
    for told in (TALK, TALK[1:]):
        (example,) = render(tokenizer, chat(*told))
        for index in (i for i, (role, _) in enumerate(told) if role == "assistant"):
            prompt = tokenizer.encode_chat(messages_of(*told[:index]), template_kwargs={})
            assert list(example.tokens[: len(prompt)]) == prompt
            assert not example.mask[len(prompt) - 1]
            assert example.mask[len(prompt)]


@pytest.mark.parametrize("model", ["tiny_model", "embedded_model"])
@given(question=WORDS, answers=st.lists(WORDS, min_size=1, max_size=3))
def test_any_text_is_learned_whole_or_refused(
    model: str, request: pytest.FixtureRequest, question: str, answers: list[str]
) -> None:
    """What is learned spells the answer and its end after serving's prompt; or it says why not."""
    tokenizer = loaded(request.getfixturevalue(model))
    told = [(("user", question), ("assistant", answer)) for answer in answers]
    row = chat(*(message for pair in told for message in pair))
    try:
        (example,) = render(tokenizer, row)
    except BadLine:
        assert any(answer[0].isspace() for answer in answers)
        return
    assert learned_in(tokenizer, example) == [f"{answer}<|im_end|>" for answer in answers]
    prompt = tokenizer.encode_chat(row.messages[:-1], template_kwargs={})
    assert list(example.tokens[: len(prompt)]) == prompt


def test_an_answer_of_weight_0_is_part_of_the_prompt_only(tiny_model: Path) -> None:
    """It is seen, and not learned."""
    tokenizer = loaded(tiny_model)
    (example,) = render(tokenizer, chat(*TALK, skipped=(2,)))
    assert learned_in(tokenizer, example) == ["On the table.<|im_end|>"]
    assert "In the harbour." in tokenizer._decode(list(example.tokens))


def test_nothing_is_kept_after_the_last_answer_that_is_learned(tiny_model: Path) -> None:
    """It would cost time and teach nothing."""
    tokenizer = loaded(tiny_model)
    (example,) = render(tokenizer, chat(*TALK, skipped=(4,)))
    assert tokenizer._decode(list(example.tokens)).endswith("In the harbour.<|im_end|>")


def test_every_token_of_a_text_but_the_first_is_learned(tiny_model: Path) -> None:
    """The end token comes after the text, once."""
    tokenizer = loaded(tiny_model)
    text = "The boats come home at dusk."
    for row in (TextRow(3, text), TextRow(3, f"{text}<|im_end|>")):
        (example,) = render(tokenizer, row)
        assert list(example.tokens) == [*tokenizer.encode(text), tokenizer.end_token]
        assert example.mask == (False, *[True] * (len(example.tokens) - 1))


def test_a_text_of_one_token_is_followed_by_its_end(tiny_model: Path) -> None:
    """There is always something to learn; the end alone is nothing."""
    tokenizer = loaded(tiny_model)
    (example,) = render(tokenizer, TextRow(3, "a"))
    assert example.mask == (False, True)
    with pytest.raises(BadLine, match="no token to learn"):
        render(tokenizer, TextRow(3, "<|im_end|>"))


@pytest.mark.parametrize("row", [chat(*TALK), TextRow(3, "The boats come home.")])
def test_a_row_is_never_cut(row: ChatRow | TextRow, tiny_model: Path) -> None:
    """One that fits exactly is whole; one token more is a fault that names both lengths."""
    tokenizer = loaded(tiny_model)
    (example,) = render(tokenizer, row)
    length = len(example.tokens)
    # The line break after the last turn counts for a chat until it is known to be no target.
    assert render(tokenizer, row, length + 1) == [example]
    with pytest.raises(BadLine, match=f"tokens and max_seq_length is {length - 1:,}"):
        render(tokenizer, row, length - 1)


def test_a_template_that_forgets_reasoning_gives_one_example_an_answer(make: Make) -> None:
    """No single text is what serving saw; each example is."""
    tokenizer = make(templates.FORGETS_REASONING)
    told = (
        ("user", "Where is the boat?"),
        ("assistant", "<think>hm</think>In the harbour."),
        ("user", "And the bread?"),
        ("assistant", "<think>oh</think>On the table."),
    )
    examples = render(tokenizer, chat(*told))
    assert [learned_in(tokenizer, example) for example in examples] == [
        ["<think>hm</think>In the harbour.<|im_end|>"],
        ["<think>oh</think>On the table.<|im_end|>"],
    ]
    assert [example.line for example in examples] == [3, 3]
    for example, index in zip(examples, (1, 3), strict=True):
        prompt = tokenizer.encode_chat(messages_of(*told[:index]), template_kwargs={})
        assert list(example.tokens[: len(prompt)]) == prompt
        assert not any(example.mask[: len(prompt)])
        assert all(example.mask[len(prompt) :])


def test_answers_without_reasoning_stay_one_example_under_that_template(make: Make) -> None:
    """The same tokens twice would be work for nothing."""
    assert len(render(make(templates.FORGETS_REASONING), chat(*TALK))) == 1


def test_a_template_that_opens_with_reasoning_is_told(make: Make) -> None:
    """The answer must bring the mark that serving's prompt ends with."""
    tokenizer = make(templates.OPENS_WITH_REASONING)
    with pytest.raises(BadLine, match=r"messages\[2\]: .* does not begin this answer"):
        render(tokenizer, chat(*TALK))
    told = [
        (role, f"<think>{text}") if role == "assistant" else (role, text) for role, text in TALK
    ]
    (example,) = render(tokenizer, chat(*told))
    assert learned_in(tokenizer, example)[-1] == "On the table.<|im_end|>"


def test_white_space_that_joins_the_opening_is_refused(embedded_model: Path) -> None:
    """Several line breaks are one token: serving's prompt ends within it."""
    with pytest.raises(BadLine, match=r"messages\[1\]: .* White space at the beginning"):
        render(loaded(embedded_model), chat(("user", "a"), ("assistant", "\n\nb")))


def test_a_template_without_an_end_is_refused(make: Make) -> None:
    """The model would never learn to stop."""
    with pytest.raises(BadLine, match="never learn to stop"):
        render(make(templates.NO_END), chat(*TALK))


@pytest.mark.parametrize("answer", ["a<|im_end|>b", "<|im_end|>b", "a<|im_end|>\nb<|im_end|>"])
def test_an_answer_does_not_hold_its_own_end(answer: str, tiny_model: Path) -> None:
    """Serving would stop there, and the rest would be learned for nothing."""
    with pytest.raises(BadLine, match="at which serving stops before its end"):
        render(loaded(tiny_model), chat(("user", "a"), ("assistant", answer)))


def test_of_two_ends_in_a_row_the_first_is_learned(make: Make) -> None:
    """Where a template ends the turn and the text, serving stops at the first."""
    tokenizer = make(templates.TWO_ENDS)
    (example,) = render(tokenizer, chat(*TALK))
    assert learned_in(tokenizer, example) == [
        "In the harbour.<|im_end|>",
        "On the table.<|im_end|>",
    ]


def test_a_template_s_refusal_is_the_line_s_fault(make: Make) -> None:
    """In the template's words."""
    tokenizer = make("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadLine, match="roles must alternate"):
        render(tokenizer, chat(*TALK))


def test_a_base_without_a_template_learns_plain_text_only(make: Make) -> None:
    """A chat has no form there; text has."""
    tokenizer = make(None)
    with pytest.raises(BadLine, match="has no chat template"):
        render(tokenizer, chat(*TALK))
    (example,) = render(tokenizer, TextRow(3, "The boats come home."))
    assert example.tokens[-1] == tokenizer.end_token
