#!/usr/bin/env bash
# Makes everything ready to run: a virtual environment in .venv (unless one is active) with this project and all it needs.
# Run it, or source it to get PYTHON, the interpreter to use. A second run only checks that nothing has changed.
set -euo pipefail
if (( BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404 )); then
    echo "error: found bash $BASH_VERSION, expected 4.4 or newer (macOS: brew install bash)" >&2
    exit 1
fi
if [[ "${BASH_SOURCE[0]}" == "$0" && $# -gt 0 ]]; then
    [[ "$1" == "-h" || "$1" == "--help" ]] && { sed -n '2,3s/^# \{0,1\}//p' "$0"; exit 0; }
    echo "error: found '$1'; setup.sh takes no words" >&2
    exit 2
fi
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
wanted=$(cat "$root/requirements.txt" "$root/requirements-dev.txt")
if [[ "$wanted" != "$(cat "$stamp" 2>/dev/null)" ]]; then
    echo "installing crashchat with what requirements.txt and requirements-dev.txt name into $environment"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -e "$root[dev]"
    printf '%s\n' "$wanted" > "$stamp"
fi
