#!/usr/bin/env bash
# Install sharpen into .venv and run recipes/quickstart.yaml: real documents, a real LLM, before and after. 10 to 20 minutes
# on 2 cores.
# Arguments are passed on: scripts/quickstart.sh name=other seed=1
set -euo pipefail
source "$(dirname "$0")/environment.sh" embedded
exec .venv/bin/sharpen run recipes/quickstart.yaml "$@"
