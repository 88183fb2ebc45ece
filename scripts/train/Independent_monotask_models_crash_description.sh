#!/usr/bin/env bash
# Independent monotask model, crash_description. Usage: bash scripts/train/Independent_monotask_models_crash_description.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" train configs/train/independent_crash_description.yaml "$@"
