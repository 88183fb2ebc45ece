#!/usr/bin/env bash
# Independent monotask model, prevention_reasoning. Usage: bash scripts/train/Independent_monotask_models_prevention_reasoning.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" train configs/train/independent_prevention_reasoning.yaml "$@"
