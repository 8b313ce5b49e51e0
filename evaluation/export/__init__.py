"""A dense encoder in the formats that servers read, each checked against the model that was measured."""
