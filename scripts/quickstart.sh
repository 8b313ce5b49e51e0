#!/usr/bin/env bash
# Install sharpen into .venv and run recipes/quickstart.yaml: real documents, a real LLM, before and after. Some ten minutes.
# Arguments are passed on: scripts/quickstart.sh name=other seed=1
set -euo pipefail
source "$(dirname "$0")/environment.sh" embedded
exec .venv/bin/sharpen run recipes/quickstart.yaml "$@"
