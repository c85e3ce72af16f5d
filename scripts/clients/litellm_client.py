"""litellm: chat, streamed and not, and embeddings. Arguments: URL, model."""

import sys

import litellm

url, model = sys.argv[1:]
asked = {
    "model": f"openai/{model}",
    "api_base": url,
    "api_key": "none",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 16,
}
print("chat", litellm.completion(**asked).choices[0].message.content)
parts = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
print("stream", "".join(parts))
found = litellm.embedding(model=f"openai/{model}", api_base=url, api_key="none", input=["a", "b"])
print("embeddings", [len(each["embedding"]) for each in found.data])
