#!/usr/bin/env bash
# The tests of pages need a Chromium: installs Debian's where there is none and we may. Usage: bash scripts/browser.sh
set -euo pipefail
for program in chromium chromium-browser google-chrome; do
    if command -v "$program" >/dev/null; then exit 0; fi
done
if [[ "$(id -u)" -eq 0 ]] && command -v apt-get >/dev/null; then
    echo "installing Chromium, for the tests of pages"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium
else
    echo "no Chromium: tests of pages will be skipped (and fail where CI=true). Install it: sudo apt-get install chromium" >&2
fi
