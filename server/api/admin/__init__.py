"""Routes under /admin: stages, chains and data sets."""
