"""OpenAI's fine-tuning jobs: stages of chains in OpenAI's words."""
