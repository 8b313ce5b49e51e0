"""Triplets by ID in, a model folder out. Of the other packages it uses only the data formats and model loading."""
