#!/usr/bin/env bash
# Asks a model the pre_crash_localization questions. Usage: bash scripts/eval/eval_video_pre_crash_localization.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" evaluate configs/eval/pre_crash_localization.yaml "$@"
