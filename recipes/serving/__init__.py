"""Looking at what a run's systems find, marking it, and going through its pairs: in a terminal, or on a page."""
