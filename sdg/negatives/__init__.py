"""Hard negatives: one file a miner, one record (``Negative``) for what all of them find."""

from sdg.negatives.record import Negative, read_negatives, write_negatives

__all__ = ["Negative", "read_negatives", "write_negatives"]
