"""Hard negatives. A file for each miner: each has ``mine``, which gives every query a ranking of documents (``Found``).

What may be a negative at all is decided in ``candidates``, which of these are likely false by the ``filters``, and
which are taken by ``draw``; so any filter and any mixture goes with any miner.
"""

from sharpen.sdg.negatives.candidates import Found, Miner, candidates
from sharpen.sdg.negatives.draw import Drawn, draw
from sharpen.sdg.negatives.record import Negative, kept_negatives, read_negatives, write_negatives

__all__ = [
    "Drawn",
    "Found",
    "Miner",
    "Negative",
    "candidates",
    "draw",
    "kept_negatives",
    "read_negatives",
    "write_negatives",
]
