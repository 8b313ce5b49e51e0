"""The subcommands of ``scripts/benchmark.py``: a file for each, with a ``main`` that measures and prints."""
