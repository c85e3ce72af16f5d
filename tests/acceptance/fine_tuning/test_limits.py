"""What a job may ask for: each limit refused by the name of its field, in OpenAI's error shape."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.acceptance.extending.product import Product
from tests.acceptance.fine_tuning.asking import (
    BASE,
    BOATS,
    BREAD,
    added,
    ended,
    stopped,
    upload,
)

JOBS = "/v1/fine_tuning/jobs"
INVALID, UNSUPPORTED = "invalid_request", "unsupported_parameter"
PLACE = "method.supervised.hyperparameters"


@pytest.fixture(scope="module")
def file(sdk: OpenAI) -> str:
    """A file of rows."""
    return upload(sdk, BOATS).id


def ask(product: Product, file: str, **fields: Any) -> httpx.Response:
    """A job on the base, changed; None leaves a field out."""
    body = {"model": BASE, "training_file": file, "suffix": "limits", **fields}
    return product.http.post(
        JOBS, json={name: value for name, value in body.items() if value is not None}
    )


def refused(response: httpx.Response, status: int = 400) -> tuple[str, str | None]:
    """Code and param of an error in OpenAI's shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error["code"], error["param"]


def supervised(**values: Any) -> dict[str, Any]:
    """``method`` with these hyperparameters."""
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": values}}}


BRIEF: Any = {"hyperparameters": {"n_epochs": 1}}
LIMITS: list[tuple[dict[str, Any], str]] = [
    *(
        (supervised(**{name: value}), f"{PLACE}.{name}")
        for name, values in {
            "n_epochs": (0, 51, 1.5, "many", True),
            "batch_size": (0, 257, "3"),
            "learning_rate_multiplier": (0, -1.0, "fast", True),
        }.items()
        for value in values
    ),
    ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
    ({**supervised(n_epochs=1), "hyperparameters": {"n_epochs": 1}}, "hyperparameters"),
    ({"suffix": ""}, "suffix"),
    ({"suffix": "x" * 65}, "suffix"),
    ({"suffix": "two words"}, "suffix"),
    ({"seed": -1}, "seed"),
    ({"seed": 2_147_483_648}, "seed"),
    ({"metadata": {str(key): "v" for key in range(17)}}, "metadata"),
    ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 64}"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"metadata": {"k": 1}}, "metadata.k"),
    ({"training_file": 7}, "training_file"),
    ({"method": {"type": "other"}}, "method.type"),
    ({"method": {}}, "method.type"),
    ({"model": None}, "model"),
    ({"from_checkpoint": f"{BASE}:any@1"}, "from_checkpoint"),
    ({"model": None, "from_checkpoint": BASE}, "from_checkpoint"),
]


@pytest.mark.parametrize(("fields", "param"), LIMITS)
def test_each_limit_names_its_field(
    product: Product, file: str, fields: dict[str, Any], param: str
) -> None:
    """A 400 before anything is queued."""
    code, named = refused(ask(product, file, **fields))
    assert (code, named is not None and named.startswith(param)) == (INVALID, True), named


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"method": {"type": "supervised", "dpo": {"hyperparameters": {}}}}, "method.dpo"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
    ],
)
def test_what_the_reference_has_and_we_do_not_is_refused_by_name(
    product: Product, file: str, fields: dict[str, Any], param: str
) -> None:
    """Rather than ignored."""
    assert refused(ask(product, file, **fields)) == (UNSUPPORTED, param)


def test_the_ends_of_the_ranges_are_taken(sdk: OpenAI, product: Product, file: str) -> None:
    """Each limit is itself allowed."""
    most = {f"{key:064}": "v" * 512 for key in range(16)}
    answer = ask(
        product,
        file,
        suffix="x" * 64,
        seed=2_147_483_647,
        metadata=most,
        **supervised(n_epochs=50, batch_size=256, learning_rate_multiplier=1e-9),
    )
    job = product.ok(answer)
    stopped(sdk, job["id"])
    assert (job["seed"], job["metadata"]) == (2_147_483_647, most)
    assert job["hyperparameters"]["learning_rate_multiplier"] == 1e-9


def test_a_field_that_nobody_defines_is_named_in_a_header(
    sdk: OpenAI, product: Product, file: str
) -> None:
    """As on every route of OpenAI's."""
    answer = ask(product, file, suffix="unknown", colour="red")
    stopped(sdk, product.ok(answer)["id"])
    assert answer.headers["x-chainlora-ignored"] == "colour"


@pytest.mark.parametrize("field", ["training_file", "validation_file"])
def test_a_file_that_is_not_there_is_named(product: Product, file: str, field: str) -> None:
    """By the field that asked for it."""
    answer = ask(product, file, **{field: "file-nowhere"})
    assert refused(answer, 404) == ("file_not_found", field)


@pytest.mark.parametrize(
    ("model", "code", "status"),
    [
        ("other", "model_not_found", 404),
        (f"{BASE}:nobody", "model_not_found", 404),
        (f"{BASE}:a,b", "two_adapters", 400),
    ],
)
def test_a_model_that_is_not_there_is_named(
    product: Product, file: str, model: str, code: str, status: int
) -> None:
    """Nothing is trained on something else."""
    assert refused(ask(product, file, model=model, suffix=None), status) == (code, "model")


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?after=ftjob-nothing", "after"),
        ("?after=nothing", "after"),
        ("?metadata=x", "metadata"),
        ("/ftjob-nothing", "fine_tuning_job_id"),
        ("/nothing", "fine_tuning_job_id"),
        ("/ftjob-nothing/events", "fine_tuning_job_id"),
        ("/ftjob-nothing/checkpoints", "fine_tuning_job_id"),
    ],
)
def test_what_a_list_asks_for_is_checked(product: Product, path: str, param: str) -> None:
    """A place that no page ended at, a length that is none, an id that is nobody's."""
    answer = product.http.get(JOBS + path)
    assert refused(answer, answer.status_code)[1] == param
    assert answer.status_code in (400, 404)


def test_a_suffix_names_a_new_chain(sdk: OpenAI, product: Product, file: str) -> None:
    """One that is there is continued by its name; a job that was cancelled leaves it free."""
    job = added(sdk, "taken", epochs=50)
    sdk.fine_tuning.jobs.cancel(job.id)
    product.wait(job.id.removeprefix("ftjob-"))
    again = ended(product, sdk, added(sdk, "taken").id)
    assert again.fine_tuned_model == f"{BASE}:taken@2"
    assert refused(ask(product, file, suffix="taken"), 409) == ("chain_exists", "suffix")
    answer = ask(product, file, model=f"{BASE}:taken", suffix="other")
    assert refused(answer) == (INVALID, "suffix")


def test_a_job_on_the_base_without_a_suffix_gets_a_chain_of_its_own(
    sdk: OpenAI, product: Product, file: str
) -> None:
    """Its name is made up, and is no other job's."""
    jobs = [product.ok(ask(product, file, suffix=None)) for _ in range(2)]
    stopped(sdk, *(job["id"] for job in jobs))
    first, second = (job["chainlora"]["chain"] for job in jobs)
    assert first != second
    assert first.startswith("ft-")


def test_from_checkpoint_is_a_parent_that_must_still_be_the_head(
    sdk: OpenAI, product: Product, file: str
) -> None:
    """A pin, the job that made it, or the head as it is now."""
    first = ended(product, sdk, added(sdk, "pinned").id)
    for number, name in enumerate(
        (f"{BASE}:pinned@1", f"{BASE}:pinned", "the newest job"), start=2
    ):
        if name == "the newest job":
            name = sdk.fine_tuning.jobs.list(limit=1).data[0].id
        answer = ask(product, file, model=None, suffix=None, from_checkpoint=name, **BRIEF)
        job = ended(product, sdk, product.ok(answer)["id"])
        assert (job.model, job.fine_tuned_model) == (name, f"{BASE}:pinned@{number}")
    for words in ({"from_checkpoint": first.id, "model": None}, {"model": f"{BASE}:pinned@1"}):
        answer = ask(product, file, **{"suffix": None, **words})
        field = next(iter(words))
        assert refused(answer, 409) == ("parent_moved", field)


def test_rows_that_do_not_fit_the_base_are_told_by_their_file(
    sdk: OpenAI, product: Product, file: str
) -> None:
    """Also those of the validation file."""
    long = upload(sdk, [{"text": "harbour " * 5000}]).id
    for field in ("training_file", "validation_file"):
        answer = ask(product, file, **{field: long})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("data_error", field)
        assert [fault["line"] for fault in error["lines"]] == [1]


def test_an_older_pin_can_be_deleted_as_a_model(sdk: OpenAI, product: Product) -> None:
    """Its revision goes, its record stays; base and heads are kept."""
    first = ended(product, sdk, added(sdk, "old").id)
    second = sdk.fine_tuning.jobs.create(
        model=str(first.fine_tuned_model), training_file=upload(sdk, BREAD).id, **BRIEF
    )
    second = ended(product, sdk, second.id)
    for kept in (BASE, f"{BASE}:old", f"{BASE}:old@2"):
        with pytest.raises(openai.ConflictError) as caught:
            sdk.models.delete(kept)
        assert (caught.value.code, caught.value.param) == ("revision_protected", "model")
    gone = sdk.models.delete(f"{BASE}:old@1")
    assert (gone.id, gone.deleted, gone.object) == (f"{BASE}:old@1", True, "model")
    with pytest.raises(openai.NotFoundError, match="was deleted on"):
        sdk.models.delete(f"{BASE}:old@1")
    job = sdk.fine_tuning.jobs.retrieve(first.id)
    assert (job.status, job.fine_tuned_model) == ("succeeded", f"{BASE}:old@1")
    (left,) = sdk.fine_tuning.jobs.checkpoints.list(first.id)
    assert left.fine_tuned_model_checkpoint == f"{BASE}:old-1-step-4@1"
    assert product.answer(f"{BASE}:old", "What is dough?")
