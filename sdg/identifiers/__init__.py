"""Identifiers of documents for generative retrieval: written by an LLM, from titles or texts, or given."""
