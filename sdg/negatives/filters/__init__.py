"""What of the candidates is likely relevant, and so no negative. Filters go with any miner, and after one another."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibration": ["Calibration", "PairScores", "calibrate", "random_pairs"],
        "custom": ["CustomNegativeFilter"],
        "judge": ["JudgeNegatives"],
        "scores": ["Absolute", "CrossEncoderLimit", "Guide", "Limit", "Margin", "Percentage", "drop_above"],
        "verdicts": ["FilterCounts", "ThresholdWarning", "filter_counts", "resolve_verdicts", "threshold_warning"],
    },
)
