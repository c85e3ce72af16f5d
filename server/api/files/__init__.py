"""OpenAI's files: training data under ids of their own, and what jobs measured."""
