"""The base's tokenizer: the same text back, the model's own template, any thread, no network."""

from __future__ import annotations

import functools
import json
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from adapters.base.load import load_base
from adapters.base.tokenizer import BaseTokenizer, load_tokenizer
from adapters.errors import BaseError, ChatTemplateError
from adapters.ports import Tokenizer

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
HELLO = [{"role": "user", "content": "Hello"}]


@functools.cache
def loaded(path: Path) -> BaseTokenizer:
    """A model's tokenizer, loaded once."""
    return load_tokenizer(path)


@given(text=TEXT)
def test_text_comes_back_token_by_token(tiny_model: Path, text: str) -> None:
    """Encoding, streaming and the bytes of each token agree on every text."""
    tokenizer = loaded(tiny_model)
    tokens = tokenizer._encode(text, special=False)
    words = tokenizer.detokenizer()
    assert "".join(map(words.add, tokens)) + words.finish() == text
    assert b"".join(map(tokenizer.token_bytes, tokens)) == text.encode()


def test_parts_of_characters_have_exact_bytes(embedded_model: Path) -> None:
    """A token may be one byte of a character: constrained decoding needs that byte."""
    tokenizer = loaded(embedded_model)
    tokens = tokenizer.encode("🎉")
    assert len(tokens) > 1
    assert [tokenizer.token_bytes(t) for t in tokens] != ["🎉".encode()]
    assert b"".join(map(tokenizer.token_bytes, tokens)) == "🎉".encode()


def test_special_tokens_stand_for_their_names(embedded_model: Path) -> None:
    """Parsers of tool calls and reasoning look for them in the text."""
    tokenizer = loaded(embedded_model)
    assert tokenizer.encode("<|im_end|>") == [2]
    assert tokenizer.token_bytes(2) == b"<|im_end|>"


@pytest.mark.parametrize("model", ["tiny_model", "embedded_model"])
def test_the_vocabulary_is_the_model_s_output(model: str, request: pytest.FixtureRequest) -> None:
    """One row of logits for each id, and every end token is one of them."""
    path = request.getfixturevalue(model)
    tokenizer, base = loaded(path), load_base(path)
    embedding: Any = base.model
    assert tokenizer.vocab_size == embedding.model.embed_tokens.weight.shape[0]
    assert tokenizer.end_tokens
    assert all(0 <= token < tokenizer.vocab_size for token in tokenizer.end_tokens)
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match="is not in a vocabulary of"):
            tokenizer.token_bytes(token)


def test_the_embedded_model_s_numbers(embedded_model: Path) -> None:
    """Context, vocabulary and both ends: of a turn and of a text."""
    tokenizer = loaded(embedded_model)
    assert (tokenizer.vocab_size, tokenizer.max_context) == (49152, 8192)
    assert tokenizer.end_tokens == {0, 2}


def test_a_chat_is_the_template_s_own_text(embedded_model: Path) -> None:
    """The model's template, as transformers applies it, ready for the assistant's turn."""
    tokens = loaded(embedded_model).encode_chat(HELLO, template_kwargs={})
    theirs: Any = AutoTokenizer.from_pretrained(embedded_model)
    expected = theirs.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=False)
    assert tokens == expected
    assert theirs.decode(tokens).endswith("Hello<|im_end|>\n<|im_start|>assistant\n")


def with_template(source: Path, target: Path, template: str | None) -> BaseTokenizer:
    """The model's tokenizer under another chat template."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.jinja"))
    file = target / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop("chat_template", None)
    if template is not None:
        config["chat_template"] = template
    file.write_text(json.dumps(config))
    return load_tokenizer(target)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0]['tool_calls'][0] }}", "tool_calls"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{% for x in %}", "Expected an expression"),
        ("{{ messages.__class__.__mro__ }}", "unsafe|access"),
        ("", "makes nothing"),
    ],
)
def test_a_template_s_refusal_is_told_in_its_words(
    template: str, reason: str, embedded_model: Path, tmp_path: Path
) -> None:
    """Whatever fails inside a template is the conversation's fault, with the reason."""
    tokenizer = with_template(embedded_model, tmp_path / "model", template)
    with pytest.raises(ChatTemplateError, match=reason):
        tokenizer.encode_chat(HELLO, template_kwargs={})


def test_a_base_without_a_template_says_what_to_use(embedded_model: Path, tmp_path: Path) -> None:
    """A plain model can complete text, not chat."""
    tokenizer = with_template(embedded_model, tmp_path / "model", None)
    with pytest.raises(ChatTemplateError, match="has no chat template: use /v1/completions"):
        tokenizer.encode_chat(HELLO, template_kwargs={})


def test_a_template_reads_its_own_arguments(embedded_model: Path, tmp_path: Path) -> None:
    """Arguments such as enable_thinking and tools reach the template."""
    template = "{{ 'on' if enable_thinking else 'off' }}{{ tools[0].function.name }}"
    tokenizer = with_template(embedded_model, tmp_path / "model", template)
    tools = [{"type": "function", "function": {"name": " weather"}}]
    for value, text in ((True, "on weather"), (False, "off weather")):
        tokens = tokenizer.encode_chat(
            HELLO, template_kwargs={"enable_thinking": value, "tools": tools}
        )
        assert tokens == tokenizer.encode(text)


@pytest.mark.parametrize(
    "name", ["chat_template", "tokenize", "add_generation_prompt", "conversation", "messages"]
)
def test_no_argument_replaces_the_template_or_the_way_it_is_applied(
    name: str, embedded_model: Path
) -> None:
    """A request never brings a template's source, nor changes what is made of the text."""
    with pytest.raises(ChatTemplateError, match=f"Not for a request to set: {name}"):
        loaded(embedded_model).encode_chat(HELLO, template_kwargs={name: "{{ 7 * 7 }}"})


@pytest.mark.parametrize("model", ["tiny_model", "embedded_model"])
def test_training_renders_what_serving_does(model: str, request: pytest.FixtureRequest) -> None:
    """The prompt that an answer is learned after is the prompt that it will answer."""
    tokenizer = loaded(request.getfixturevalue(model))
    talk = [*HELLO, {"role": "assistant", "content": "Good day"}, *HELLO]
    assert tokenizer.render(talk, tools=None, open_turn=True) == tokenizer.encode_chat(
        talk, template_kwargs={}
    )
    closed = tokenizer.render(talk, tools=None, open_turn=False)
    assert tokenizer.render(talk, tools=None, open_turn=True)[: len(closed)] == closed


def test_training_hands_tools_to_the_template(embedded_model: Path, tmp_path: Path) -> None:
    """As serving does; a base without a template renders nothing."""
    template = "{{ tools[0].function.name if tools else 'none' }}"
    tokenizer = with_template(embedded_model, tmp_path / "model", template)
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert tokenizer.render(HELLO, tools=tools, open_turn=True) == tokenizer.encode("weather")
    assert tokenizer.render(HELLO, tools=None, open_turn=True) == tokenizer.encode("none")
    plain = with_template(embedded_model, tmp_path / "plain", None)
    with pytest.raises(ChatTemplateError, match="has no chat template"):
        plain.render(HELLO, tools=None, open_turn=True)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}", 0),
        ("{% for m in messages %}{{ m.content }}<|im_end|><|endoftext|>{% endfor %}", 2),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", 2),
        (None, 2),
    ],
)
def test_the_end_of_an_answer_is_the_template_s(
    template: str | None, end: int, embedded_model: Path, tmp_path: Path
) -> None:
    """A turn may end otherwise than a text; the tokenizer's own end is for what says nothing."""
    assert with_template(embedded_model, tmp_path / "model", template).end_token == end


def test_it_is_what_training_asks_for(tiny_model: Path) -> None:
    """The port's words are this tokenizer's."""
    port: Tokenizer = loaded(tiny_model)
    assert port.end_token in port.end_tokens


def test_threads_may_share_it(embedded_model: Path) -> None:
    """Encoding, chatting and decoding at once give what one thread gets."""
    tokenizer = loaded(embedded_model)
    texts = [f"{n} bottles of milk on the wall, naïve 🎉 " * 20 for n in range(40)]
    expected = [tokenizer.encode(text) for text in texts]

    def work(text: str) -> tuple[list[int], list[int]]:
        chat = [{"role": "user", "content": text}]
        return tokenizer.encode(text), tokenizer.encode_chat(chat, template_kwargs={})

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, texts))
    assert [tokens for tokens, _ in found] == expected
    assert all(len(chat) > len(tokens) for tokens, chat in found)


def test_loading_asks_no_network(embedded_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local directory is all that there is."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_tokenizer(embedded_model).encode("x")


def other_kind(target: Path, **config: Any) -> Path:
    """A model directory with a WordPiece tokenizer, which has a beginning-of-text token."""
    tokenizer: Any = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    trainer: Any = trainers.WordPieceTrainer(special_tokens=["[UNK]", "<s>", "</s>"])
    tokenizer.train_from_iterator(["unbelievable believers leave"], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    target.mkdir()
    tokenizer.save(str(target / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (target / "tokenizer_config.json").write_text(json.dumps(names))
    (target / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return target


def test_a_tokenizer_of_another_kind_is_asked_to_decode(tmp_path: Path) -> None:
    """WordPiece joins its pieces by rules of its own; the stream follows them."""
    tokenizer = load_tokenizer(
        other_kind(tmp_path / "model", vocab_size=4096, max_position_embeddings=64)
    )
    tokens = tokenizer.encode("believers leave")
    words = tokenizer.detokenizer()
    streamed = [words.add(token) for token in tokens[1:]]
    assert "".join(streamed) + words.finish() == "believers leave"
    assert tokenizer.token_bytes(tokens[0]) == b"<s>"
    assert tokenizer.token_bytes(4095) == b"", "a row of the output that is no token"


def test_a_text_begins_once(tmp_path: Path) -> None:
    """A prompt that spells the beginning-of-text token does not get a second one."""
    tokenizer = load_tokenizer(other_kind(tmp_path / "model", vocab_size=99, n_positions=64))
    assert tokenizer.encode("leave")[0] == 1
    assert tokenizer.encode("<s> leave") == tokenizer.encode("leave")
    assert tokenizer.max_context == 64


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({"max_position_embeddings": 64}, "vocab_size"),
        ({"vocab_size": 99}, "max_position_embeddings"),
        ({"vocab_size": 99, "max_position_embeddings": 0}, "max_position_embeddings"),
    ],
)
def test_a_number_that_cannot_be_guessed_must_be_given(
    config: dict[str, int], missing: str, tmp_path: Path
) -> None:
    """A wrong context length would show as garbage late in a long answer."""
    with pytest.raises(BaseError, match=f"does not say {missing}"):
        load_tokenizer(other_kind(tmp_path / "model", **config))


def test_the_text_part_of_a_larger_model_is_read(tmp_path: Path) -> None:
    """Models that also see images keep the numbers of their text one level down."""
    text = {"vocab_size": 99, "max_position_embeddings": 64}
    tokenizer = load_tokenizer(other_kind(tmp_path / "model", text_config=text))
    assert (tokenizer.vocab_size, tokenizer.max_context) == (99, 64)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    """The message names the place and the way out."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BaseError, match="no tokenizer that can be loaded"):
        load_tokenizer(tmp_path)
