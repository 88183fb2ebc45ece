#!/usr/bin/env bash
# Independent monotask model, causal_reasoning. Usage: bash scripts/train/Independent_monotask_models_causal_reasoning.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" train configs/train/independent_causal_reasoning.yaml "$@"
