#!/usr/bin/env bash
# llm (the command line tool): text, a stream, an object by a schema. Arguments: URL, model.
set -euo pipefail
LLM_USER_PATH=$(mktemp -d)
export LLM_USER_PATH
trap 'rm -rf "$LLM_USER_PATH"' EXIT
cat > "$LLM_USER_PATH/extra-openai-models.yaml" <<END
- model_id: chainlora
  model_name: $2
  api_base: $1
  api_key_name: none
  supports_schema: true
END
echo "text: $(llm -m chainlora --no-stream --key none -o max_tokens 16 'Say hello.')"
echo "stream: $(llm -m chainlora --key none -o max_tokens 16 'Say hello.')"
echo "object: $(llm -m chainlora --no-stream --key none -o max_tokens 100 --schema 'city, country' 'Paris is in France.')"
