"""instructor: an object of a class, by a JSON schema and by tools. Arguments: URL, model."""

import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    """What is asked for."""

    name: str
    age: int


url, model = sys.argv[1:]
for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
    client = instructor.from_openai(OpenAI(base_url=url, api_key="none"), mode=mode)
    person = client.chat.completions.create(
        model=model,
        response_model=Person,
        max_retries=0,
        messages=[{"role": "user", "content": "Anna is 31 years old. Who is it?"}],
        temperature=0,
        max_tokens=200,
    )
    assert isinstance(person, Person)
    print(mode.value, person)
