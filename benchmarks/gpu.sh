#!/usr/bin/env bash
# Every figure that needs a GPU, in one command, with the checks that results are right there:
#
#   bash benchmarks/gpu.sh               perhaps half an hour on an H100; JSON in benchmarks/results/, a table at the end
#   bash benchmarks/gpu.sh --dry-run     the same steps at the smallest sizes, on a CPU as well; results in a folder of their own
#
# 1. checks: attention, losses, gradients and answers on this device against the rule, each pass or fail
# 2. attention at two prefix lengths, all implementations held against each other
# 3. the six-question training step of the 2B and 7B shapes, with loss and gradients held against the plain way, memory and MFU
# 4. six-task evaluation, with the answers' tokens held against transformers' own generate   5. the data path
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
[[ -z "${PYTHON:-}" && -x .venv/bin/python ]] && python=.venv/bin/python
results=benchmarks/results sizes="cpu 2b 7b" heads=7b prefixes="900 2300 9000" ways="branch_attention flex_attention" repeats=3
if [[ "${1:-}" == "--dry-run" ]]; then
    results=$(mktemp -d) sizes=tiny heads=cpu prefixes="64 100" ways=branch_attention repeats=1
elif ! "$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)'; then
    echo "error: no GPU that torch can use; on a CPU give --dry-run, or run the scripts in benchmarks/ one by one" >&2
    exit 1
elif "$python" -c 'import flash_attn' 2>/dev/null; then
    ways="$ways flash_attn"
fi
"$python" benchmarks/checks.py
for prefix in $prefixes; do
    "$python" benchmarks/attention.py --size "$heads" --prefix "$prefix" --repeats "$repeats" --out "$results/attention_${heads}_${prefix}_gpu.json"
done
for size in $sizes; do
    for way in $ways; do
        "$python" benchmarks/train_step.py --size "$size" --repeats "$repeats" --attention "$way" --out "$results/train_step_${size}_gpu_${way}.json"
    done
    "$python" benchmarks/evaluate_video.py --size "$size" --repeats "$repeats" --out "$results/evaluate_video_${size}_gpu.json"
done
[[ "${1:-}" == "--dry-run" ]] || "$python" benchmarks/data_path.py --out "$results/data_path_gpu.json"
"$python" benchmarks/summary.py "$results"
