"""One stage from its data to its last step."""
