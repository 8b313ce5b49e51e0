"""The commands of ``sharpen``, by what they are given; each module has an ``app`` of typer's."""
