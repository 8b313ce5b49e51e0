"""From what queries are written, and how an LLM is asked for them: one file a strategy."""
