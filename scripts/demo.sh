#!/usr/bin/env bash
# From traffic videos to scored answers on a fresh machine: synthetic clips, LoRA fine-tuning of ckpt/tiny_base with the
# heterogeneous strategy, merge, evaluation of the test split, scores and a report, through the scripts that a user with
# eight GPUs and the 7B checkpoint runs. A second run reuses what the first made.
#
#   bash scripts/demo.sh           one model for all six tasks, five to ten minutes on two cores
#   bash scripts/demo.sh --all     all nine strategies, side by side as in the paper's table
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
    "") strategies=(heterogeneous) ;;
    --all) strategies=(heterogeneous homogeneous_linguistic homogeneous_perception independent_crash_recognition
        independent_crash_description independent_causal_reasoning independent_prevention_reasoning
        independent_crash_localization independent_pre_crash_localization) ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: found '$1', expected --all or nothing" >&2; exit 2 ;;
esac
started=$SECONDS
source scripts/setup.sh
installed=$SECONDS
out=outputs/demo
processes=$(( $(nproc) > 1 ? 2 : 1 ))
# What a model of half a million weights needs other than one of seven billion: see configs/train/recipe.yaml.
tiny=(base_model=ckpt/tiny_base data_dir=data/demo learning_rate=3.0e-3 projector_learning_rate=1.0e-3 epochs=12 eval_steps=100 save_steps=100
    gradient_checkpointing=false cache_videos=300 num_workers=0 early_stopping_patience=null)

step() { printf '\n== %s (%d s)\n' "$1" $(( SECONDS - installed )); }

# evaluate ROW MODEL SCRIPT [key=value ...]: answers to the test split's questions in outputs/demo/ROW
evaluate() {
    bash "scripts/eval/$3" "$processes" "model=$2" data_dir=data/demo "output_dir=$out/$1" "${@:4}"
}

step "synthetic clips in data/demo"
"$PYTHON" -m crashchat synthesize --out data/demo

step "answers of the base model"
evaluate base ckpt/tiny_base eval_video_all_tasks.sh

rows=("base=$out/base")
for strategy in "${strategies[@]}"; do
    case "$strategy" in
        heterogeneous) script=Heterogeneous_multitask_models_all_tasks.sh questions=eval_video_all_tasks.sh tasks=() ;;
        homogeneous_linguistic) script=Homogeneous_multitask_models_linguistic.sh questions=eval_video_all_tasks.sh
            tasks=(tasks=crash_recognition,crash_description,causal_reasoning,prevention_reasoning) ;;
        homogeneous_perception) script=Homogeneous_multitask_models_perception.sh questions=eval_video_all_tasks.sh
            tasks=(tasks=crash_localization,pre_crash_localization) ;;
        independent_*) task=${strategy#independent_} tasks=()
            script=Independent_monotask_models_$task.sh questions=eval_video_$task.sh ;;
    esac
    step "fine-tuning: $strategy"
    bash "scripts/train/$script" "$processes" "${tiny[@]}" "output_dir=$out/train/$strategy"
    if [[ ! -f "$out/merged/$strategy/config.json" ]]; then
        "$PYTHON" -m crashchat merge --base ckpt/tiny_base \
            --adapter "$out/train/$strategy" --out "$out/merged/$strategy"
    fi
    step "answers of the fine-tuned model: $strategy"
    evaluate "$strategy" "$out/merged/$strategy" "$questions" "${tasks[@]}"
    rows+=("$strategy=$out/$strategy")
done

step "scores"
for predictions in "$out"/*/*_evaluation_results/*/*_predict.json; do
    task=$(basename "$(dirname "$(dirname "$predictions")")")
    "$PYTHON" "scripts/eval/compute_${task%_evaluation_results}_metrics.py" --predictions "$predictions" --data-dir data/demo \
        --no-meteor > "${predictions%.json}_metrics.txt"
done
"$PYTHON" -m crashchat compare "${rows[@]}" --data-dir data/demo --split test --motion \
    --losses "$out/train/heterogeneous" --out "$out"
printf 'took %d s after %d s of setup\n' $(( SECONDS - installed )) $(( installed - started ))
