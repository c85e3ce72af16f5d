"""llama-index: chat, a stream and embeddings. Arguments: URL, model."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

url, name = sys.argv[1:]
llm = OpenAILike(
    model=name, api_base=url, api_key="none", is_chat_model=True, max_tokens=16, context_window=8192
)
asked = [ChatMessage(role="user", content="Say hello.")]
print("chat", llm.chat(asked).message.content)
print("stream", "".join(part.delta or "" for part in llm.stream_chat(asked)))
print("complete", llm.complete("The cat sat").text)
try:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
except ImportError:
    print("embeddings: llama-index-embeddings-openai-like is not installed")
else:
    embedding = OpenAILikeEmbedding(model_name=name, api_base=url, api_key="none")
    print("embeddings", len(embedding.get_text_embedding("The cat sat.")))
