"""BEIR data, retrieval to a run, metrics, significance and the report. Imports none of the other packages."""
