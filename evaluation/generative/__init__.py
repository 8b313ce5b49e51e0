"""Generative retrieval: a language model answers a query with a document's identifier."""
