#!/usr/bin/env bash
# Homogeneous multitask model, the two perception tasks. Usage: bash scripts/train/Homogeneous_multitask_models_perception.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" train configs/train/homogeneous_perception.yaml "$@"
