"""Training of generative retrievers: a language model learns to write the identifier of a query's document."""
