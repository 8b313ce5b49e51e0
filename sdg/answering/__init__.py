"""Questions with reference answers: an LLM that answers them from documents, and one that judges its answers."""
