"""What is kept of generated queries: one file a filter."""
