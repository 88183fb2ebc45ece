#!/usr/bin/env bash
# Independent monotask model, pre_crash_localization. Usage: bash scripts/train/Independent_monotask_models_pre_crash_localization.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" train configs/train/independent_pre_crash_localization.yaml "$@"
