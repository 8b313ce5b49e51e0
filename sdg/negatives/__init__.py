"""Hard negatives: one file a miner, one record (``Negative``) for what all of them find."""

from sdg.negatives.record import Negative, kept_negatives, read_negatives, write_negatives

__all__ = ["Negative", "kept_negatives", "read_negatives", "write_negatives"]
