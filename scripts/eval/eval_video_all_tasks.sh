#!/usr/bin/env bash
# Asks a model all six tasks, each video read once. Usage: bash scripts/eval/eval_video_all_tasks.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" evaluate configs/eval/all_tasks.yaml "$@"
