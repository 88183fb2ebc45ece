#!/usr/bin/env bash
# From traffic videos to scored answers on a fresh machine: synthetic clips, LoRA fine-tuning of ckpt/tiny_base with the
# heterogeneous strategy, merge, evaluation of the test split, scores and a report, through the scripts that a user with
# eight GPUs and the 7B checkpoint runs. A second run reuses what the first made.
#
#   bash scripts/demo.sh                        one model for all six tasks, five to ten minutes on two cores
#   bash scripts/demo.sh --all                  all nine strategies, side by side as in the paper's table
#   bash scripts/demo.sh --reinforce            and a second stage behind it that rewards times, as long as the first or twice that
#   bash scripts/demo.sh learning_rate=1.0e-3   another setting of the training (its defaults: configs/train/tiny_model.yaml);
#                                               goes to a folder of its own, outputs/demo-learning_rate=1.0e-3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
strategies=(heterogeneous) second=() settings=()
for word in "$@"; do
    case "$word" in
        --all) strategies=(heterogeneous homogeneous_linguistic homogeneous_perception independent_crash_recognition
            independent_crash_description independent_causal_reasoning independent_prevention_reasoning
            independent_crash_localization independent_pre_crash_localization) ;;
        --reinforce) second=(reinforced) ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
        data_dir=* | output_dir=* | base_model=*)
            echo "error: found '$word', but the demo has its own data, base and folders; scripts/train/*.sh take others" >&2; exit 2 ;;
        [a-z_]*=*) settings+=("$word") ;;
        *) echo "error: found '$word', expected --all, --reinforce or settings of the training as key=value, e.g. epochs=6" >&2; exit 2 ;;
    esac
done
started=$SECONDS
source scripts/setup.sh
installed=$SECONDS
base=outputs/demo/base
out=outputs/demo
for word in "${settings[@]}"; do out+="-${word//[\/ ]/_}"; done
cores=$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)  # macOS has no nproc
processes=$(( cores > 1 ? 2 : 1 ))
tiny=(with=configs/train/tiny_model.yaml data_dir=data/demo "${settings[@]}")
# A wrong setting is named now, not after the clips are made.
"$PYTHON" -m crashchat.command train configs/train/heterogeneous.yaml "$processes" "${tiny[@]}"
# A log is lines, not the redrawn bars of a terminal.
if [[ ! -t 2 ]]; then export TQDM_DISABLE=1; fi

step() { printf '\n== %s (%d s)\n' "$1" $(( SECONDS - installed )); }

# evaluate FOLDER MODEL SCRIPT [key=value ...]: answers to the test split's questions in a folder
evaluate() {
    bash "scripts/eval/$3" "$processes" "model=$2" data_dir=data/demo "output_dir=$1" "${@:4}"
}

step "synthetic clips in data/demo"
"$PYTHON" -m crashchat synthesize --out data/demo

step "answers of the base model"
evaluate "$base" ckpt/tiny_base eval_video_all_tasks.sh

rows=("base=$base")
for strategy in "${strategies[@]}" "${second[@]}"; do
    training=("${tiny[@]}")
    case "$strategy" in
        heterogeneous) script=Heterogeneous_multitask_models_all_tasks.sh questions=eval_video_all_tasks.sh tasks=() ;;
        homogeneous_linguistic) script=Homogeneous_multitask_models_linguistic.sh questions=eval_video_all_tasks.sh
            tasks=(tasks=crash_recognition,crash_description,causal_reasoning,prevention_reasoning) ;;
        homogeneous_perception) script=Homogeneous_multitask_models_perception.sh questions=eval_video_all_tasks.sh
            tasks=(tasks=crash_localization,pre_crash_localization) ;;
        independent_*) task=${strategy#independent_} tasks=()
            script=Independent_monotask_models_$task.sh questions=eval_video_$task.sh ;;
        reinforced) script=Reinforce_localization.sh questions=eval_video_all_tasks.sh tasks=()
            training=(with=configs/train/tiny_reinforce.yaml data_dir=data/demo "adapter=$out/train/heterogeneous") ;;
    esac
    step "fine-tuning: $strategy"
    bash "scripts/train/$script" "$processes" "${training[@]}" "output_dir=$out/train/$strategy"
    if [[ ! -f "$out/merged/$strategy/config.json" ]]; then
        "$PYTHON" -m crashchat merge --base ckpt/tiny_base \
            --adapter "$out/train/$strategy" --out "$out/merged/$strategy"
    fi
    step "answers of the fine-tuned model: $strategy"
    evaluate "$out/$strategy" "$out/merged/$strategy" "$questions" "${tasks[@]}"
    rows+=("$strategy=$out/$strategy")
done

step "scores"
for predictions in {"$base","$out"/*}/*_evaluation_results/*/*_predict.json; do
    task=$(basename "$(dirname "$(dirname "$predictions")")")
    "$PYTHON" "scripts/eval/compute_${task%_evaluation_results}_metrics.py" --predictions "$predictions" --data-dir data/demo \
        --no-meteor > "${predictions%.json}_metrics.txt"
done
"$PYTHON" -m crashchat compare "${rows[@]}" --data-dir data/demo --split test --motion \
    --losses "$out/train/heterogeneous" --out "$out"
printf '\ntook %d s after %d s of setup\n' $(( SECONDS - installed )) $(( installed - started ))
cat <<END

Look at        $out/report.html    scores, film strips and timelines of the clips it answered best and worst
               $out/train/${strategies[0]}/loss.png
Try next       .venv/bin/crashchat analyze data/demo/videos/test_*.mp4 --out $out/analysis   (opens as $out/analysis/report.html)
               .venv/bin/crashchat serve                                    a page to ask it about a clip
               bash scripts/demo.sh learning_rate=1.0e-3                    the same with another setting
               tensorboard --logdir $out/train                              the losses of several trainings
The model is tiny and has seen nothing but drawings: its answers on real footage mean nothing. With a GPU and the 7B checkpoint, docs/training.md.
END
