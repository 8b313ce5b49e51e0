#!/usr/bin/env bash
# What the settings of the quickstart do to nDCG@10 on its 100 dev questions: one line for each, the queries generated once.
# Some 40 minutes on 2 cores. The test questions are not touched. Arguments go to every run: seed=14
set -euo pipefail
source "$(dirname "$0")/environment.sh" embedded
settings=(
    ""
    "training.base_share=0.4"
    "training.base_share=0.4 training.epochs=2"
    "training.base_share=0.4 training.epochs=3 training.learning_rate=5.0e-5"
    "training.base_share=0.4 filters.round_trip.top_k=1"
    "training.base_share=0.4 filters.round_trip.top_k=30"
    "training.base_share=0.4 negatives.ranks=[1,20]"
    "training.base_share=0.4 negatives.per_query=0"
    "training.base_share=0.4 negatives.per_query=3"
)
mkdir -p runs
for setting in "${settings[@]}"; do
    # one run's folder for all: the stages that a setting does not change are reused
    # shellcheck disable=SC2086
    .venv/bin/sharpen run recipes/quickstart.yaml name=quickstart-dev evaluation.split=dev queries.documents=1000 training.base_share=0.0 $setting "$@" > runs/quickstart-dev.log || { cat runs/quickstart-dev.log; exit 1; }
    .venv/bin/python - "${setting:-as the recipe, without base_share}" <<'PYTHON'
import json, sys
d = json.load(open("runs/quickstart-dev/metrics.json"))["delta"]["ndcg@10"]
print(f"{d['value']:+.4f} [{d['interval'][0]:+.4f}, {d['interval'][1]:+.4f}]  {sys.argv[1]}", flush=True)
PYTHON
done
