#!/usr/bin/env bash
# bash scripts/train/Reinforce_localization.sh [processes] adapter=FOLDER [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" reinforce configs/train/reinforce_localization.yaml "$@"
