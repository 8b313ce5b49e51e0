#!/usr/bin/env bash
# Run the baselines of recipes/expected.yaml that can run here and print what came out beside what is expected. --all also
# runs those that need a network. Exit status 1: one is off by more than its tolerance. Some five minutes on 2 cores.
set -euo pipefail
source "$(dirname "$0")/environment.sh" embedded
exec .venv/bin/python -m sharpen.recipes reproduce "$@"
