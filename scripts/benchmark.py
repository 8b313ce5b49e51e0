"""How fast sharpen is beside what people would use in its place, in one run on this machine.

    python scripts/benchmark.py encoding      # sentence-transformers' encode             about 3 minutes
    python scripts/benchmark.py training      # SentenceTransformerTrainer                about 5 minutes
    python scripts/benchmark.py methods       # sentence-transformers' losses             about 30 minutes
    python scripts/benchmark.py mining        # rank_bm25, bm25s, mine_hard_negatives     about 3 minutes
    python scripts/benchmark.py generation    # a bare loop of requests                   about 3 minutes
    python scripts/benchmark.py evaluation    # BEIR's search, pytrec_eval                about 4 minutes
    python scripts/benchmark.py generative    # transformers' generate, GENRE's trie      about 5 minutes
    python scripts/benchmark.py exports       # no peer: a model in each format           about 10 minutes
    python scripts/benchmark.py corpora       # no peer: growth with the corpus           about 2 minutes
    python scripts/benchmark.py scale         # bm25s, faiss, mine_hard_negatives         about 6 minutes

The times are those of the default sizes on two AVX2 cores; options make them larger. Each prints a Markdown table whose
heading names the CPU, a row as soon as it is measured, with ratios to the peer: above 1, sharpen is faster. Datasets
are found by name as everywhere: in the folders of $SHARPEN_DATA, in ./data, or fetched from BEIR's server.
"""

from __future__ import annotations

import typer
from benchmarks import corpora, encoding, evaluation, exports, generation, generative, methods, mining, scale, training
from benchmarks.common import as_help

app = typer.Typer(help=as_help(__doc__), no_args_is_help=True, add_completion=False, rich_markup_mode=None)
for module in (encoding, training, methods, mining, generation, generative, evaluation, exports, corpora, scale):
    app.command(module.__name__.rpartition(".")[2], help=as_help(module.__doc__))(module.main)

if __name__ == "__main__":
    app()
