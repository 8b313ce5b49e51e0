"""Synthetic data generation: documents in, labelled queries and hard negatives out. Knows nothing of training."""
