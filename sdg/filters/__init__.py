"""What is kept of generated queries. Each filter returns the kept ones and, for each rejected one, the reason."""
