#!/usr/bin/env bash
# Heterogeneous multitask model, all six tasks. Usage: bash scripts/train/Heterogeneous_multitask_models_all_tasks.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" train configs/train/heterogeneous.yaml "$@"
