"""A generative retriever from documents to a verdict, with a small model of random weights."""
