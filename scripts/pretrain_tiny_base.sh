#!/usr/bin/env bash
# Makes ckpt/tiny_base again: synthetic scenes, general questions on them, a random tiny model, training, export.
# About an hour on two cores. Usage: bash scripts/pretrain_tiny_base.sh [key=value ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
"$PYTHON" -m crashchat synthesize --pretraining 3000 --out data/general
if [[ ! -d outputs/pretraining/init ]]; then
    "$PYTHON" -m crashchat synthesize --out data/demo
    "$PYTHON" tool/make_tiny_base.py --annotations data/general/general_train.json data/demo/*_train.json \
        --out outputs/pretraining/init
fi
bash scripts/launch.sh train configs/train/pretrain_tiny_base.yaml "$@"
rm -rf ckpt/tiny_base
cp -r outputs/pretraining/tiny_base/model ckpt/tiny_base
echo "ckpt/tiny_base is made"
