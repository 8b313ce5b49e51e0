"""Training of generative retrievers: examples, the joint loss, and preferences among the model's own beams."""
