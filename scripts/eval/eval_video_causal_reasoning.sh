#!/usr/bin/env bash
# Asks a model the causal_reasoning questions. Usage: bash scripts/eval/eval_video_causal_reasoning.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" evaluate configs/eval/causal_reasoning.yaml "$@"
