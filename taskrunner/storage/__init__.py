"""Stores of bytes: one Protocol (`store`), one module a kind, and `opening`, which knows the one for a URL."""
