"""Whether a server gives the vectors of the model that was measured, and if not, why."""
