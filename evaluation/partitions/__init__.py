"""Work in parts: maps from parquet shards to parquet shards, on this machine or on a cluster.

A ``Map`` says what becomes of some rows; an engine has it done, by the processes of ``accelerate launch`` or by Ray;
``Partitions`` keeps what came out, so that nothing is computed twice: not after a kill, not by a later stage, not by
another run, and of a corpus that has grown only what is new.
"""
