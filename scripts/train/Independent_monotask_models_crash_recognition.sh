#!/usr/bin/env bash
# Independent monotask model, crash_recognition. Usage: bash scripts/train/Independent_monotask_models_crash_recognition.sh [processes] [key=value ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" train configs/train/independent_crash_recognition.yaml "$@"
