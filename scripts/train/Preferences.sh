#!/usr/bin/env bash
# bash scripts/train/Preferences.sh [processes] adapter=FOLDER [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" prefer configs/train/preferences.yaml "$@"
