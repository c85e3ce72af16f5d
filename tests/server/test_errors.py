"""The wire form of errors: every class has one, and nothing leaks through it."""

import errno
import inspect
from collections.abc import Iterator

import pytest

import adapters.errors
import server.core.errors
from adapters.errors import AdapterError, ChatTemplateError
from server.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    QueueFull,
    ServeError,
    UnknownModel,
)
from server.errors import TABLE, qualified_name, to_body


def tree(root: type[BaseException]) -> Iterator[type[BaseException]]:
    """``root`` and every class below it that the two error modules define."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == root.__module__:
            yield from tree(child)


CLASSES = [*tree(ServeError), *tree(AdapterError)]


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_its_own_row(error_class: type[BaseException]) -> None:
    """A class without a row would be reported as its parent, hence less precisely."""
    assert qualified_name(error_class) in TABLE


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_lack_of_room_is_no_defect_wherever_it_shows(number: int) -> None:
    """Whatever was being written; no path is told."""
    body = to_body(OSError(number, "no room", "/secret/path"))
    assert (body.status, body.content["error"]["code"]) == (507, "storage_full")
    assert "secret" not in body.content["error"]["message"]
    assert to_body(OSError(errno.EIO, "bad sector")).status == 500


def test_every_row_belongs_to_a_class() -> None:
    """A renamed or deleted class must take its row with it."""
    assert set(TABLE) == {qualified_name(error_class) for error_class in CLASSES}


@pytest.mark.parametrize("module", [server.core.errors, adapters.errors])
def test_the_trees_hold_every_error_of_their_module(module: object) -> None:
    """An exception beside the tree would reach the client as an internal error."""
    defined = {
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Exception) and value.__module__ == getattr(module, "__name__", None)
    }
    assert defined <= set(CLASSES)


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda cls: cls.__name__)
def test_every_body_has_the_shape_of_openai(error_class: type[BaseException]) -> None:
    """Clients read exactly these four fields, whatever went wrong."""
    body = to_body(error_class("the message"))
    error = body.content["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["message"], error["param"]) == ("the message", None)
    assert 400 <= body.status < 600
    assert (error["type"] == "server_error") == (body.status >= 500)


def test_codes_name_one_class_each() -> None:
    """A client that branches on the code must not confuse two errors."""
    codes = [wire.code for wire in TABLE.values()]
    assert len(codes) == len(set(codes))


def test_the_field_at_fault_is_named() -> None:
    """``param`` of the error reaches the body."""
    body = to_body(UnknownModel("no such model", param="model"))
    assert (body.status, body.content["error"]["param"]) == (404, "model")
    assert body.content["error"]["code"] == "model_not_found"


def test_an_error_below_a_row_is_reported_as_its_nearest_ancestor() -> None:
    """A class that a part defines for itself keeps the meaning of the one that it refines."""

    class Refined(InvalidRequest):
        pass

    assert to_body(Refined("x")).status == 400


def test_a_full_queue_says_when_to_come_back() -> None:
    """429 carries Retry-After, as RFC 6585 allows and the SDK obeys."""
    assert to_body(QueueFull("full", retry_after_s=7)).headers == {"retry-after": "7"}
    assert to_body(QueueFull("full")).headers == {}, "it was not measured"


def test_a_request_that_took_too_long_is_not_repeated() -> None:
    """The SDK repeats 408 by itself; repeating what took ten minutes helps nobody."""
    assert to_body(DeadlineExceeded("late")).headers == {"x-should-retry": "false"}


def test_a_conversation_that_the_template_refuses_is_the_client_s_fault() -> None:
    """Adapter management's errors have their status without importing the HTTP side."""
    assert to_body(ChatTemplateError("roles must alternate")).status == 400


def test_an_unexpected_error_tells_nothing_but_where_to_look() -> None:
    """Texts of foreign exceptions may hold paths, prompts or keys."""
    body = to_body(RuntimeError("/srv/secret"), request_id="req_7")
    assert body.status == 500
    assert "secret" not in body.content["error"]["message"]
    assert "req_7" in body.content["error"]["message"]
