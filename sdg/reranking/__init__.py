"""An LLM as a reranker: it says of each document whether it answers the query, or puts several in order."""
