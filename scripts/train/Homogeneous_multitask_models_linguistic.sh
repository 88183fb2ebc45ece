#!/usr/bin/env bash
# Homogeneous multitask model, the four linguistic tasks. Usage: bash scripts/train/Homogeneous_multitask_models_linguistic.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" train configs/train/homogeneous_linguistic.yaml "$@"
