#!/usr/bin/env bash
# Asks a model the prevention_reasoning questions. Usage: bash scripts/eval/eval_video_prevention_reasoning.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" evaluate configs/eval/prevention_reasoning.yaml "$@"
