#!/usr/bin/env bash
# Makes everything ready to run: a virtual environment in .venv (unless one is active) with requirements.txt installed.
# Run it, or source it to get PYTHON, the interpreter to use. A second run only checks that nothing has changed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=${VIRTUAL_ENV:-$root/.venv}
if [[ ! -x "$environment/bin/python" ]]; then
    base=""
    for candidate in python3.11 python3.12 python3.13 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            base=$candidate
            break
        fi
    done
    if [[ -z "$base" ]]; then echo "error: no Python 3.11 or newer found; install one and run this again" >&2; exit 1; fi
    echo "making a virtual environment in $environment with $base"
    "$base" -m venv "$environment"
fi
export PYTHON="$environment/bin/python"
stamp="$environment/crashchat-requirements.txt"
if ! cmp -s "$root/requirements.txt" "$stamp"; then
    echo "installing requirements.txt into $environment"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt"
    # The command `crashchat`; `python -m crashchat` from this folder is the same.
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps -e "$root"
    cp "$root/requirements.txt" "$stamp"
fi
