"""Recipes (YAML) and the engine that runs them. The only package that knows all the others."""
