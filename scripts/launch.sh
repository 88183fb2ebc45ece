#!/usr/bin/env bash
# The one launcher: bash scripts/launch.sh train|reinforce|prefer|evaluate CONFIG [processes] [key=value ...]
# Runs the command under torchrun. Processes: the first argument if it is a number, else 1. CUDA_VISIBLE_DEVICES picks GPUs.
# More nodes: set NNODES, MASTER_ADDR (the first node's) and MASTER_PORT, the same on each, and NODE_RANK on each its own
# (and NODE_ADDR, its address, where the others do not reach it by its host name).
# MAX_RESTARTS=3: when a process or a node is lost, all start again from the last checkpoint, at most so often (default 0).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $# -lt 2 || "$1" == -* || "$2" == -* ]]; then
    sed -n '2,6s/^# \{0,1\}//p' scripts/launch.sh
    [[ "${1:-}" == "-h" || "${1:-}" == "--help" ]] && exit 0 || exit 2
fi
command=$1 config=$2
shift 2
for word in "$@"; do
    if [[ "$word" == "-h" || "$word" == "--help" ]]; then exec "${PYTHON:-python}" -m crashchat "$command" --help; fi
done
processes=1
if [[ $# -gt 0 && "$1" =~ ^[0-9]+$ ]]; then processes=$1; shift; fi
if [[ "$processes" -lt 1 ]]; then echo "error: the number of processes is $processes, expected 1 or more" >&2; exit 2; fi
for word in "$@"; do
    if [[ ! "$word" =~ ^[A-Za-z_]+= ]]; then
        echo "error: found '$word', expected key=value, e.g. epochs=2; the number of processes comes before all of them" >&2
        exit 2
    fi
done

# Containers have GPUs without nvidia-smi.
if command -v nvidia-smi >/dev/null 2>&1; then
    gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
    if [[ -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true); fi
    if [[ "$gpus" -gt 0 && "$processes" -gt "$gpus" ]]; then
        echo "error: found $gpus GPU(s), and $processes processes want one each; start $gpus, or set CUDA_VISIBLE_DEVICES" >&2
        exit 2
    fi
elif [[ ! -e /dev/nvidiactl && ! -e /dev/dxg ]]; then
    # Without a GPU, DeepSpeed must be told to stay on the CPU, and processes must share the cores rather than fight for them.
    export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)  # macOS has no nproc
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( cores / processes > 0 ? cores / processes : 1 ))}"
fi
# A log is lines, not the redrawn bars of a terminal.
if [[ ! -t 2 ]]; then export TQDM_DISABLE="${TQDM_DISABLE:-1}"; fi
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
restarts=${MAX_RESTARTS:-0}
if [[ "$processes" -eq 1 && "${NNODES:-1}" -eq 1 && "$*" != *deepspeed=* && "$restarts" -eq 0 ]]; then
    # One process needs no rendezvous, and its errors are easier to read without torchrun's around them.
    exec "${PYTHON:-python}" -m crashchat "$command" "$config" "$@"
elif [[ "${NNODES:-1}" -gt 1 ]]; then
    # A node that was lost may join again as long as the first one is there. Every round makes a store of its own: torchrun
    # shares one otherwise, and tells a node that joins later nothing of it.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    : "${MASTER_ADDR:?set MASTER_ADDR}" "${NODE_RANK:?set NODE_RANK}"
    [[ "$NODE_RANK" -eq 0 ]] && host=1 || host=0
    rendezvous=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-id "${RUN_ID:-crashchat}" \
        --rdzv-endpoint "$MASTER_ADDR:${MASTER_PORT:-29500}" --rdzv-conf "is_host=$host" \
        ${NODE_ADDR:+--local-addr "$NODE_ADDR"})
else
    rendezvous=(--standalone)
fi
# What is wrong with the settings is said once, before any process is started.
"${PYTHON:-python}" -m crashchat.command "$command" "$config" "$(( processes * ${NNODES:-1} ))" "$@"
# This process becomes torchrun: its processes end with it, and know by this that it has not ended before they could ask.
export CRASHCHAT_LAUNCHER=$$
exec "${PYTHON:-python}" -m torch.distributed.run "${rendezvous[@]}" --max-restarts "$restarts" --nproc-per-node "$processes" \
    -m crashchat "$command" "$config" "$@"
