#!/usr/bin/env bash
# Sets up what is needed, checks style, spelling, types and the floors, and runs the tests. Usage: bash scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
bash scripts/browser.sh
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$(dirname "$PYTHON")/codespell"
"$(dirname "$PYTHON")/lint-imports"
"$PYTHON" -m mypy
cores=$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)  # nproc goes by that variable; macOS has none
# One thread a process: the tests start several processes, and tiny matrices gain nothing from more.
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
# A worker a core and one more, as a quarter of a worker's time is spent waiting for servers, disks and processes. A file's tests
# share what they make, so they stay with one worker. tests/conftest.py has them in order.
exec "$PYTHON" -m pytest -n "$(( cores + 1 ))" --dist loadfile --no-loadscope-reorder "$@"
