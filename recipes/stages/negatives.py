"""Hard negatives of the queries that are trained on: mined, filtered and drawn."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sharpen.evaluation.beir import Corpus, Queries, read_corpus, write_corpus
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError, sha256_file, write_jsonl
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.runs import fuse
from sharpen.recipes.engine import Context, from_main
from sharpen.recipes.llm import llm_identity, open_llm, uses_chat
from sharpen.recipes.load import read_negatives_pool
from sharpen.recipes.schema.recipe import (
    BM25Miner,
    CrossEncoderMiner,
    DenseMiner,
    HybridMiner,
    LLMMiner,
    LLMPart,
    Miner,
    NegativesFilter,
    Recipe,
)
from sharpen.recipes.stages.comparison import base_index, base_input, model_digest, search_part
from sharpen.recipes.stages.corpus import corpus_key, read_own_corpus
from sharpen.recipes.stages.pairs import train_queries
from sharpen.recipes.stages.scoring import BASE, BI_ENCODER, FUSED, score, scorer_digest
from sharpen.sdg.llm.budget import Spending
from sharpen.sdg.negatives import (
    Drawn,
    Found,
    Negative,
    bm25,
    candidates,
    cross_encoder,
    dense,
    draw,
    llm,
    write_negatives,
)
from sharpen.sdg.negatives import random as at_random
from sharpen.sdg.negatives.candidates import depth_for
from sharpen.sdg.negatives.filters import (
    Calibration,
    Limit,
    Rows,
    agreed,
    calibrate,
    counted,
    doubt,
    drop_above,
    judged,
)
from sharpen.sdg.split import read_split

WRITTEN = "written.jsonl"
"""The documents that an LLM wrote, in the layout of a corpus."""
CALIBRATED_BY = 500
"""Queries whose positives and random documents a limit is calibrated with, at most."""
RANDOM_DOCUMENTS = 5
"""Of each of these queries."""


@dataclass(frozen=True)
class Mined:
    """``rows`` with their verdicts, what an LLM wrote, what of that is of no use, and the counts for the manifest."""

    rows: list[Negative]
    written: Corpus
    rejected: list[dict[str, Any]]
    counts: dict[str, Any]


def mine_negatives(context: Context, folder: Path) -> dict[str, Any]:
    mined = mine(context)
    if process_state().is_main_process:
        write_negatives(folder / "negatives.jsonl", mined.rows)
        if any(miner.kind == "llm" for miner in context.recipe.negatives.miners):
            write_corpus(folder / WRITTEN, mined.written)
            write_jsonl(folder / "rejected.jsonl", mined.rejected)
    return mined.counts


def mine(context: Context, current: SentenceTransformer | None = None) -> Mined:
    """Mine, filter and draw as the recipe says. ``current``: the model in training, in place of its base. All processes
    must call this."""
    recipe = context.recipe
    part = recipe.negatives
    corpus, queries = read_own_corpus(context), train_queries(context)
    held_out = {
        doc_id for doc_id, side in read_split(context.stage_folder("pairs") / "split.jsonl").items() if side != "train"
    }
    found: dict[str, Rows] = {}
    written: Corpus = {}
    rejected: list[dict[str, Any]] = []
    spent: list[Spending] = []
    for name, miner in part.by_name().items() if part.per_query + more_negatives(recipe) else ():
        ranks = (1, miner.negatives) if miner.kind == "llm" else miner.ranks
        mined, useless = _mined(context, name, miner, queries, corpus, depth_for(ranks[1], len(corpus)), spent, current)
        written |= mined.written
        rejected += useless
        found[name] = candidates(
            list(queries.values()), mined.run, corpus | mined.written, held_out, name, ranks, recipe.seed
        )
    counts: dict[str, Any] = {"queries": len(queries)}
    for number, each in enumerate(part.filters, start=1):
        found, told = _filtered(context, each, found, queries, corpus | written, spent, current)
        counts[f"filter {number}, {each.kind}"] = {
            f"{name}: {what}": n for name, own in told.items() for what, n in own.items()
        }
        doubts = {name: said for name, own in told.items() if (said := doubt(own))}
        for said in dict.fromkeys(doubts.values()):
            _warn(
                context,
                f"negatives.filters[/]: {each.kind} takes {said}"
                f" ({', '.join(name for name in doubts if doubts[name] == said)}).",
            )
    found = agreed(found, corpus | written)
    shares = {name: miner.share for name, miner in part.by_name().items()}
    drawn = draw(
        list(queries.values()),
        found,
        shares,
        part.per_query,
        recipe.seed,
        mix=part.mix,
        too_few=part.too_few,
        more=more_negatives(recipe),
        corpus=corpus,
        held_out=sorted(held_out),
    )
    if drawn.too_few:
        what = {
            "leave_out": "are left out of the training",
            "others": "got some of the other miners instead",
            "random": "got documents drawn at random instead",
        }[part.too_few]
        _warn(
            context,
            f"negatives[/]: {drawn.too_few:,} of {len(queries):,} queries have fewer than wanted and {what}"
            " (negatives.too_few).",
        )
    return Mined(drawn.rows, written, rejected, counts | _counts(recipe, drawn, rejected, spent))


def _counts(recipe: Recipe, drawn: Drawn, rejected: list[dict[str, Any]], spent: list[Spending]) -> dict[str, Any]:
    kept = [n for n in drawn.rows if n.verdict == "kept"]
    counts: dict[str, Any] = {
        "negatives": len(kept),
        "queries_with_too_few": drawn.too_few,
        "dropped": dict(Counter(n.reason for n in drawn.rows if n.verdict == "dropped").most_common()),
    }
    if len(recipe.negatives.miners) > 1:
        counts["by_miner"] = dict(Counter(n.miner for n in kept).most_common())
    if filled := Counter(n.reason for n in kept if n.reason):  # by_miner counts these for the one whose place they take
        counts["filled"] = dict(filled.most_common())
    if relabelled := sum(n.verdict == "relabelled" for n in drawn.rows):
        counts["relabelled"] = relabelled
    if spent:
        counts |= {f"{kind}_tokens": n for kind, n in sum((s.tokens for s in spent), Counter()).items()}
    if any(s.spent for s in spent):
        counts["money"] = ", ".join(str(s) for s in spent)
    if rejected:
        counts["rejected"] = dict(Counter(row["reason"] for row in rejected).most_common())
    return counts


def _warn(context: Context, text: str) -> None:
    context.console.print(f"[yellow]{text}", highlight=False, soft_wrap=True)


def read_training_corpus(context: Context) -> Corpus:
    """The run's documents, and the negatives that an LLM wrote."""
    return read_own_corpus(context) | read_written(context.stage_folder("negatives"))


def read_written(folder: Path) -> Corpus:
    """What an LLM wrote, by the folder of the stage."""
    path = folder / WRITTEN
    return read_corpus(path) if path.exists() and path.stat().st_size else {}


def negatives_part(recipe: Recipe) -> list[Any]:
    part = recipe.negatives
    chosen = [
        part.model_dump(exclude={"miners": {"__all__": {"pool", "llm"}}, "filters": {"__all__": {"llm"}}}),
        more_negatives(recipe),
    ]
    asked = [llm_of(recipe, each) for each in (*part.miners, *part.filters) if each.kind in ("llm", "judge")]
    chosen += [[llm_identity(a), uses_chat(a), a.llm.budget and str(a.llm.budget)] for a in asked]
    return [*chosen, search_part(recipe)] if _needs_base(recipe) else chosen


def negatives_inputs(context: Context) -> dict[str, str]:
    recipe = context.recipe
    inputs = base_input(context) if _needs_base(recipe) else {}
    inputs |= {f"scorer {name}": scorer_digest(context, name) for name in scorers_of(recipe)}
    for name, miner in recipe.negatives.by_name().items():
        if model := getattr(miner, "model", None):
            inputs[f"model of {name}"] = model_digest(model)
        if pool := getattr(miner, "pool", None):
            inputs[f"pool of {name}"] = sha256_file(Path(pool))
    return inputs


def scorers_of(recipe: Recipe) -> list[str]:
    """Whom the filters ask for scores."""
    return list(dict.fromkeys(_scorer(each) for each in recipe.negatives.filters if each.kind != "judge"))


def writing(recipe: Recipe) -> dict[str, llm.Writing]:
    """How each miner that is an LLM is asked, with its pool read. Raises ``InputError`` for a pool that is none."""
    found = {}
    for name, miner in recipe.negatives.by_name().items():
        if miner.kind != "llm":
            continue
        chat = uses_chat(llm_of(recipe, miner))
        if miner.pool is None and not chat:
            raise InputError(
                f"negatives.miners: {name} has an LLM that goes on with a text and is told nothing, so it needs"
                " examples; give pool, as pools/negatives.yaml"
            )
        pool = read_negatives_pool(Path(miner.pool)) if miner.pool else []
        parameters = {"temperature": miner.temperature, "top_p": miner.top_p, "max_tokens": miner.max_tokens} | (
            {"extra_body": {"top_k": miner.top_k}} if miner.top_k else {}
        )
        found[name] = llm.Writing(
            pool, miner.negatives, miner.sees_positive, miner.examples, miner.words, chat, parameters
        )
    return found


def llm_of(recipe: Recipe, part: Any) -> Recipe:
    """The recipe with the LLM of one of its parts."""
    own: LLMPart | None = part.llm
    return recipe.model_copy(update={"llm": own or recipe.llm})


def more_negatives(recipe: Recipe) -> int:
    """What the reranker learns from beyond the retriever's."""
    return max(0, recipe.reranker.negatives - recipe.negatives.per_query) if recipe.reranker else 0


def _mined(
    context: Context,
    name: str,
    miner: Miner,
    queries: Queries,
    corpus: Corpus,
    depth: int,
    spent: list[Spending],
    current: SentenceTransformer | None,
) -> tuple[Found, list[dict[str, Any]]]:
    """What a miner finds, and what an LLM wrote that is of no use. Encoding is shared by the processes."""
    asked, seed = list(queries.values()), context.recipe.seed
    match miner.kind:
        case "bm25":
            return bm25.mine(asked, corpus, depth, language=miner.language, backend=miner.backend), []
        case "dense":
            return _dense(context, miner, asked, corpus, depth, current), []
        case "hybrid":
            words = bm25.mine(asked, corpus, depth, language=miner.language)
            return Found(fuse([words.run, _dense(context, miner, asked, corpus, depth, current).run])), []
        case "cross_encoder":
            return _rescored(context, miner, asked, corpus, current), []
        case "random":
            return at_random.mine(asked, corpus, depth, seed), []
        case "llm":
            return from_main(
                _asked(context, name, miner, asked, corpus, spent) if process_state().is_main_process else None
            )


def _dense(
    context: Context,
    miner: DenseMiner,
    queries: list[Any],
    corpus: Corpus,
    depth: int,
    current: SentenceTransformer | None,
) -> Found:
    texts = {q.id: q.text for q in queries}
    if len(corpus) <= miner.block and not miner.approximate and current is None:
        if miner.model is None:  # the round trip has it in memory already, or the comparison will
            return Found(base_index(context, corpus).search(texts, depth))
        if context.siblings:  # other arms and seeds mine with it, too
            key = ("index", model_digest(miner.model), miner.query_prompt, miner.document_prompt, corpus_key(context))
            if key not in context.cache:
                context.cache[key] = Dense(corpus, load_encoder(miner.model), miner.query_prompt, miner.document_prompt)
            return Found(context.cache[key].search(texts, depth))
    training = context.recipe.training
    if miner.model is None:
        model, prompts = (
            current
            or load_encoder(training.base, max_seq_length=training.max_seq_length, attention=training.attention),
            (training.query_prompt, training.document_prompt),
        )
    else:
        model, prompts = load_encoder(miner.model), (miner.query_prompt, miner.document_prompt)
    with context.progress("encoding to mine", len(corpus)) as advance:
        return dense.mine(
            queries,
            corpus,
            depth,
            model=model,
            query_prompt=prompts[0],
            document_prompt=prompts[1],
            block=miner.block,
            approximate=miner.approximate,
            progress=advance,
        )


def _rescored(
    context: Context, miner: CrossEncoderMiner, queries: list[Any], corpus: Corpus, current: SentenceTransformer | None
) -> Found:
    first = {"bm25": BM25Miner(kind="bm25"), "dense": DenseMiner(kind="dense"), "hybrid": HybridMiner(kind="hybrid")}[
        miner.of
    ]
    by_id = {q.id: q for q in queries}
    with context.progress("scoring to mine", len(queries) * miner.depth) as advance:
        return cross_encoder.mine(
            queries,
            corpus,
            miner.depth,
            score=lambda pairs: score(context, miner.model, pairs, by_id, corpus, advance),
            of=lambda _q, _c, depth, _s: _mined(context, miner.of, first, by_id, corpus, depth, [], current)[0],
        )


def _asked(
    context: Context, name: str, miner: LLMMiner, queries: list[Any], corpus: Corpus, spent: list[Spending]
) -> tuple[Found, list[dict[str, Any]]]:
    recipe = llm_of(context.recipe, miner)
    with context.progress("writing negatives", len(queries)) as advance, open_llm(recipe) as model:
        spent.append(model.spending)
        return llm.mine(
            queries,
            corpus,
            miner.negatives,
            context.recipe.queries_seed,
            llm=model,
            writing=writing(context.recipe)[name],
            name=name,
            warm_up=recipe.llm.embedded is not None,
            progress=lambda answer: advance(note=answer.text.strip().split("\n")[0][:60]),
        )


def _filtered(
    context: Context,
    each: NegativesFilter,
    found: Mapping[str, Rows],
    queries: Queries,
    corpus: Corpus,
    spent: list[Spending],
    current: SentenceTransformer | None,
) -> tuple[dict[str, Rows], dict[str, dict[str, int]]]:
    """Every miner's rows behind one filter, and what it did to them."""
    if each.kind == "judge":
        after = from_main(
            _judged(context, each, found, queries, corpus, spent) if process_state().is_main_process else None
        )
    else:
        scorer = _scorer(each)
        pairs = [
            (n.query_id, n.doc_id)
            for rows in found.values()
            for own in rows.values()
            for n in own
            if n.verdict == "candidate"
        ]
        own = [(q.id, i) for q in queries.values() for i in q.metadata["positives"]]
        by_chance = _by_chance(queries, corpus, context.recipe.seed)
        with context.progress("scoring to filter", len(pairs)) as advance:
            scores = score(
                context, scorer, list(dict.fromkeys(pairs + own + by_chance)), queries, corpus, advance, current
            )
        known = calibrate(list(queries.values()), scores, [scores[pair] for pair in by_chance])
        limit, reason = limit_of(each, known)
        after = {name: drop_above(rows, scores, limit, reason) for name, rows in found.items()}
    return after, {name: counted(found[name], after[name]) for name in found}


def limit_of(each: NegativesFilter, known: Calibration) -> tuple[Limit, str]:
    """What a filter takes for the highest score of a negative, and what is said of those above it."""
    match each.kind:
        case "absolute" | "cross_encoder":
            highest = known.absolute() if each.max == "auto" else each.max
            return lambda _query: highest, f"{each.kind}: above {highest:.3g}"
        case "margin":
            least = known.margin() if each.min == "auto" else each.min
            return lambda query: known.positives[query] - least, f"margin: less than {least:.3g} below the positive"
        case "percentage":
            if each.max == "auto":
                return known.near_positive, "percentage: nearer to the positive than calibrated"
            return (
                lambda query: each.max * known.positives[query],
                f"percentage: above {each.max:g} of the positive's score",
            )
        case "guide":
            return lambda query: known.positives[query], "guide: above the positive"


def _judged(
    context: Context, each: Any, found: Mapping[str, Rows], queries: Queries, corpus: Corpus, spent: list[Spending]
) -> dict[str, dict[str, list[Negative]]]:
    recipe = llm_of(context.recipe, each)
    after = {}
    with context.progress("judging negatives", 0) as advance, open_llm(recipe) as model:
        spent.append(model.spending)
        for name, rows in found.items():
            after[name] = judged(
                rows,
                queries,
                corpus,
                model,
                action=each.action,
                per_prompt=each.per_prompt,
                max_words=each.max_document_words,
                chat=uses_chat(recipe),
                progress=lambda _answer: advance(),
            )
    return after


def _by_chance(queries: Queries, corpus: Corpus, seed: int) -> list[tuple[str, str]]:
    """Pairs that have nothing to do with each other, but for the odd one."""
    rng = random.Random(f"{seed}/calibration")
    ids = sorted(corpus)
    return [
        (q, i)
        for q in rng.sample(sorted(queries), min(CALIBRATED_BY, len(queries)))
        for i in rng.sample(ids, min(RANDOM_DOCUMENTS, len(ids)))
        if i not in queries[q].metadata["positives"]
    ]


def _scorer(each: NegativesFilter) -> str:
    if each.kind == "guide":
        return f"{BI_ENCODER}{each.model}" if each.model else BASE
    return each.model if each.kind == "cross_encoder" else each.scorer


def _needs_base(recipe: Recipe) -> bool:
    part = recipe.negatives
    kinds = [
        m.of if m.kind == "cross_encoder" else m.kind
        for m in part.miners
        if getattr(m, "model", None) is None or m.kind == "cross_encoder"
    ]
    return any(kind in ("dense", "hybrid") for kind in kinds) or any(
        name in (BASE, FUSED) for name in scorers_of(recipe)
    )
