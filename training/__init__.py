"""Fine-tuning of bi-encoders and cross-encoders on triplets of IDs. Uses ``sharpen.evaluation``, and no other package.

>>> from sharpen.training import RetrieverSettings
>>> RetrieverSettings(base="packaged:all-MiniLM-L6-v2").learning_rate
2e-05
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "lists": ["CandidateLists"],
        "merging": ["choose_base_weight", "interpolate", "weights_of"],
        "refresh": ["train_with_refresh"],
        "reranker": ["train_reranker"],
        "retriever": ["train_retriever"],
        "settings": ["LoraSettings", "RerankerSettings", "RetrieverSettings", "ValidationSettings"],
        "trainer": ["StepProgress", "TrainingResult", "TrainingRun"],
        "triplets": ["Triplet", "make_triplets"],
        "validation": ["SmallTask", "Validation", "small_task"],
    },
)
