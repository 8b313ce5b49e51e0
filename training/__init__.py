"""Fine-tuning of bi-encoders, cross-encoders and generative retrievers on rows of IDs. Uses ``sharpen.evaluation``,
and no other package.

>>> from sharpen.training import RetrieverSettings
>>> RetrieverSettings(base="packaged:all-MiniLM-L6-v2").learning_rate
2e-05
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "generative.examples": ["Example", "combine", "context_examples", "query_examples", "replay"],
        "generative.preference": ["PreferencePair", "preference_pairs", "train_preference"],
        "generative.settings": ["GenerativeSettings", "HitSettings", "PreferenceSettings"],
        "generative.trainer": ["train_generative"],
        "lists": ["CandidateLists"],
        "merging": ["choose_base_weight", "interpolate", "weights_of"],
        "optimization": ["LoraSettings"],
        "refresh": ["train_with_refresh"],
        "reranker": ["train_reranker"],
        "retriever": ["train_retriever"],
        "settings": ["RerankerSettings", "RetrieverSettings", "ValidationSettings"],
        "tracking": ["StepProgress"],
        "trainer": ["TrainingResult", "TrainingRun"],
        "triplets": ["Triplet", "make_triplets"],
        "validation": ["SmallTask", "Validation", "small_task"],
    },
)
