#!/usr/bin/env bash
# Asks a model the crash_description questions. Usage: bash scripts/eval/eval_video_crash_description.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" evaluate configs/eval/crash_description.yaml "$@"
