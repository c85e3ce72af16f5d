"""The OpenAPI document: every route, with its schemas and examples that work."""
