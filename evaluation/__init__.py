"""BEIR data, retrieval to a run, metrics, significance and the report. Imports none of the other packages.

>>> from sharpen import evaluation as ev
>>> corpus = [ev.Document("d1", "Ice flows downhill."), ev.Document("d2", "Bread is baked.")]
>>> task = ev.Task(corpus, [ev.Query("q1", "how ice flows")], {"q1": {"d1": 1}})
>>> ev.evaluate(task.qrels, ev.search_task(task, ev.BM25(task.corpus)), ["mrr@10"])
{'mrr@10': {'q1': 1.0}}
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arms": ["ArmResult", "ArmRun", "arm_results", "arms_table"],
        "beir": ["Document", "Query", "read_corpus", "read_qrels", "read_queries"],
        "before_after": ["compare"],
        "datasets": ["Task", "load_task"],
        "encoders.encode": ["encode", "score_pairs"],
        "encoders.families": ["load_any"],
        "encoders.load": ["load_cross_encoder", "load_encoder"],
        "encoders.routes": ["route_of", "with_routes"],
        "encoders.settings": ["Encoder"],
        "files": ["InputError"],
        "metrics": ["evaluate"],
        "models": ["Models"],
        "report.comparison": ["Report"],
        "retrievers.base": ["Retriever", "search_task"],
        "retrievers.bm25": ["BM25"],
        "retrievers.dense": ["Dense"],
        "retrievers.fused": ["Fused"],
        "retrievers.hybrid": ["Hybrid"],
        "retrievers.multi_vector": ["MultiVector"],
        "retrievers.reranked": ["Reranked"],
        "retrievers.sparse": ["Sparse"],
        "runs": ["read_run", "write_run"],
        "systems": ["Choosing", "compare_systems"],
        "truncation": ["collect_truncations"],
        "teachers": ["compare_teachers", "rank_candidates"],
    },
)
