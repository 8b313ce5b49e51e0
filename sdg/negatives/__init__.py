"""Hard negatives. A file for each miner: its settings, with a ``mine`` that ranks documents for every query.

What may be a negative at all is decided in ``candidates``, which of these are likely relevant by the ``filters``, and
which are taken by ``draw``; so any filter and any mixture goes with any miner. ``mine`` joins them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["FilteredRows", "Miner", "MinerSettings", "MiningResult", "NegativeFilter"],
        "bm25": ["BM25Miner"],
        "candidates": ["depth_for"],
        "cross_encoder": ["CrossEncoderMiner"],
        "custom": ["CustomMiner"],
        "dense": ["DenseMiner"],
        "draw": ["DrawOptions", "Drawn"],
        "filters.calibration": ["Calibration", "calibrate"],
        "filters.custom": ["CustomNegativeFilter"],
        "filters.judge": ["JudgeNegatives"],
        "filters.scores": ["Absolute", "CrossEncoderLimit", "Guide", "Margin", "Percentage"],
        "filters.verdicts": ["FilterCounts", "filter_counts", "resolve_verdicts", "threshold_warning"],
        "given": ["GivenMiner"],
        "hybrid": ["HybridMiner"],
        "llm": ["LLMMiner", "NegativePrompt"],
        "mine": ["MinedNegatives", "mine_negatives", "mine_with_settings"],
        "pool": ["NegativesExample", "read_negatives_pool"],
        "random": ["RandomMiner"],
        "record": [
            "Negative",
            "PassageProblem",
            "Reason",
            "RejectedPassage",
            "kept_negatives",
            "read_negatives",
            "write_negatives",
            "write_rejected_passages",
        ],
        "settings": ["NegativesSettings"],
    },
)
