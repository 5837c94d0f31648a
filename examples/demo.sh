#!/usr/bin/env bash
# From JSONL to a trained model on the example data, with a tiny random model made on the spot: `make demo`.
# Works offline and without a GPU; writes to demo-out/ alone. BIN is the folder that holds `ktodata` and `python`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HF_HUB_OFFLINE=1

bin=${BIN:-.venv/bin}
out=demo-out
rm -rf "$out"

run() {
    printf '\n$ ktodata %s\n' "$*"
    "$bin/ktodata" "$@"
}

heading() {
    printf '\n\n== %s\n' "$1"
}

heading 'A file where every row but the first has a defect. Exit code 1 is what stops a pipeline.'
status=0
run validate examples/broken.jsonl || status=$?
echo "exit code $status"
if [ "$status" -ne 1 ]; then
    echo "expected exit code 1" >&2
    exit 1
fi

heading 'Any rule can be asked why.'
run rule KTO305

heading 'Good data: drawn shapes, questions, and answers of three sources.'
run validate examples/shapes/train.jsonl examples/shapes/eval.jsonl

heading 'A vision-language model of random weights, so that nothing is fetched.'
"$bin/python" examples/tiny_models.py llava "$out/model"

heading 'Records to an exact token cache: image tokens are counted from headers, no pixel is decoded.'
run preprocess examples/shapes/train.jsonl --eval-data examples/shapes/eval.jsonl \
    --model "$out/model" --output "$out/cache" --max-length 512

heading 'What the model will be fed.'
run inspect "$out/cache" --head 1

heading "The cache to a model, by TRL's own trainer. So tiny a model wants a higher learning rate than a real one."
run train --cache "$out/cache" --model "$out/model" --output "$out/run" \
    --batch-size 4 --max-steps 24 --learning-rate 1e-3 \
    --set kto.logging_steps=2 --set kto.eval_strategy=steps --set kto.eval_steps=8

heading 'Done. Look at:'
find "$out" -maxdepth 3 -type f \( -name 'report.*' -o -name 'metrics.*' -o -name '*.png' \) | sort
cat <<END

Your own data next:
  $bin/ktodata validate YOUR.jsonl
  $bin/ktodata preprocess YOUR.jsonl --model MODEL --output CACHE --max-length 4096
  $bin/ktodata train --cache CACHE --model MODEL --output RUN --dry-run
END
