#!/usr/bin/env bash
# A deployed model learns from what people corrected, and is compared with itself before (docs/review.md, Learning again):
#   bash scripts/train/Continue_from_review.sh [processes] REVIEW_FOLDER base_model=FOLDER [adapter=FOLDER] data_dir=FOLDER output_dir=FOLDER
#       [task_set=FILE] [replay=0.1] [group=REGEX] [drawn=true] [key=value ...]
# REVIEW_FOLDER: a reviewed analysis. base_model, adapter: what is deployed; without adapter, a merged model. data_dir: what it learnt
# on; its test split is the held-out one. task_set: the tasks; without, those that the model's folder names, else CrashChat's.
# replay: the share of its training videos that is learnt again. group: what of a clip's path names its recording. drawn: the clips
# are drawings. All else are settings of the training. Exit code: 0 the new model may take the old one's place, 1 it is worse on the
# held-out split or the reviewed random share, or a step failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
usage() { sed -n '2,9s/^# \{0,1\}//p' scripts/train/Continue_from_review.sh; }
[[ "${1:-}" == "-h" || "${1:-}" == "--help" ]] && { usage; exit 0; }
processes=1
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then processes=$1; shift; fi
review=${1:-}
[[ -z "$review" || "$review" == *=* ]] && { usage >&2; exit 2; }
shift
base="" adapter="" old_data="" out="" task_set="" replay=0.1 settings=() export=() shared=()
for word in "$@"; do
    case "$word" in
        base_model=*) base=${word#*=} ;;
        adapter=*) adapter=${word#*=} ;;
        data_dir=*) old_data=${word#*=} ;;
        output_dir=*) out=${word#*=} ;;
        task_set=*) task_set=${word#*=} ;;
        replay=*) replay=${word#*=} ;;
        group=*) export+=(--group "${word#*=}") ;;
        drawn=true) export+=(--drawn) ;;
        annotation_files=* | tasks=*) echo "error: found '$word', but the tasks are those that the review has answers to" >&2; exit 2 ;;
        # What a video is to the model must be the same in training and in evaluation.
        fps=* | max_frames=* | token_compression=* | dtype=* | num_workers=* | feature_cache=* | feature_cache_gb=* | vision_config=*)
            settings+=("$word") shared+=("$word") ;;
        [A-Za-z_]*=*) settings+=("$word") ;;
        *) echo "error: found '$word', expected key=value" >&2; exit 2 ;;
    esac
done
for given in "base_model=$base" "data_dir=$old_data" "output_dir=$out"; do
    [[ "$given" != *= ]] || { echo "error: ${given%=} is not given; expected ${given}FOLDER" >&2; exit 2; }
done
for folder in "$adapter" "$base"; do
    [[ -n "$task_set" || ! -f "$folder/task_set.yaml" ]] || task_set="$folder/task_set.yaml"
done
tasks=(${task_set:+--task-set "$task_set"})
shared+=(${task_set:+"task_set=$task_set"}) settings+=(${task_set:+"task_set=$task_set"})
python="${PYTHON:-python}"

# files FOLDER SPLIT: the folder's annotation files of a split, as a list in a setting
files() { printf '[%s]' "$(find "$1" -maxdepth 1 -name "*_$2.json" | sort | paste -sd, -)"; }
# answers DATA_DIR OUT ADAPTER: a model's answers to the test split
answers() {
    bash scripts/eval/eval_video_all_tasks.sh "$processes" "model=$base" ${3:+"adapter=$3"} "data_dir=$1" "output_dir=$2" \
        "annotation_files={test: $(files "$1" test)}" "${shared[@]}"
}

mkdir -p "$out"
if [[ -d "$out/data" ]]; then
    echo "$out/data: there already; remove $out to take in what was decided since"
else
    "$python" -m crashchat export-labels "$review" --out "$out/data" "${tasks[@]}" --hold-out-random --replay "$old_data" --replay-share "$replay" "${export[@]}"
fi
bash scripts/launch.sh train configs/train/heterogeneous.yaml "$processes" "base_model=$base" ${adapter:+"adapter=$adapter"} \
    "data_dir=$out/data" "annotation_files={train: $(files "$out/data" train), val: $(files "$out/data" val)}" \
    "output_dir=$out/train" "${settings[@]}"
answers "$old_data" "$out/old_held_out" "$adapter"
answers "$old_data" "$out/new_held_out" "$out/train"
answers "$out/data" "$out/old_random" "$adapter"
answers "$out/data" "$out/new_random" "$out/train"
exec "$python" -m crashchat recommend "${tasks[@]}" --on "$old_data" "$out/old_held_out" "$out/new_held_out" \
    --on "$out/data" "$out/old_random" "$out/new_random" --out "$out/verdict.json"
