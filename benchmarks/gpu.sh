#!/usr/bin/env bash
# Every figure that needs a GPU, in one command, with the checks that results are the same there:
#
#   bash benchmarks/gpu.sh          perhaps half an hour on an H100; tables on the screen, JSON in benchmarks/results/
#
# 1. the model's tests on this machine's GPU build of torch   2. attention at a 9,000-token prefix, all implementations held
# against each other   3. the six-question training step of the 2B and 7B shapes, with loss and gradients held against the
# plain way, memory and MFU   4. six-task evaluation, with the answers' tokens held against transformers' own generate
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "error: no GPU that torch can use; on a CPU run the scripts in benchmarks/ one by one")'
"$python" -m pytest -q tests/test_sequence.py tests/test_model.py
"$python" benchmarks/attention.py --size 7b --prefix 900
"$python" benchmarks/attention.py --size 7b --prefix 9000
for size in cpu 2b 7b; do
    "$python" benchmarks/train_step.py --size "$size" --repeats 3
    "$python" benchmarks/train_step.py --size "$size" --repeats 3 --attention flex_attention \
        --out "benchmarks/results/train_step_${size}_gpu_flex.json"
    "$python" benchmarks/evaluate_video.py --size "$size" --repeats 3
done
"$python" benchmarks/data_path.py
