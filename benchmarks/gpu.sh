#!/usr/bin/env bash
# On a GPU machine, in ten minutes at most: step times with and without each setting against a plain loop, whether a step
# waits for the GPU, how near bfloat16 stays to float32, whether runtime=deterministic runs, and one class of MNIST from
# nothing to its counterfactuals.
# usage: benchmarks/gpu.sh MNIST_FOLDER OMNIGLOT_FOLDER [key=value of `cfexplain train` ...]
# PYTHON: python3 unless set. On a CPU all of it runs too, slowly.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3} out=$(mktemp -d) more=("${@:3}")
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true
git log -1 --format=%h || true

float32="runtime=gpu runtime.precision=float32"
for settings in "runtime=gpu" "$float32" "$float32 runtime.allow_tf32=false" "runtime=deterministic" \
    "runtime=gpu fit.batch_size=256 detector.batch_size=512"; do
    echo "== $settings"
    # shellcheck disable=SC2086
    "$python" benchmarks/training.py cache_dir="$out/cache" $settings "${more[@]}"
done

echo "== MNIST, normal 1, from nothing to explained"
run_of() { "$python" -c 'import json, sys; print(json.load(sys.stdin)["run"])'; }
for generator in "" generator=flow_edit; do
    mnist=(dataset=mnist dataset.root="$1" exposure=omniglot exposure.root="$2" 'dataset.normal=[1]' $generator "${more[@]}")
    started=$SECONDS
    trained=$("$python" -m cfexplain train --json runtime=gpu output_root="$out" cache_dir="$out/cache" "${mnist[@]}" | run_of)
    echo "${generator:-the default generator}: trained after $((SECONDS - started)) s"
    explained=$("$python" -m cfexplain explain --json run="$trained" output_root="$out" cache_dir="$out/cache" | run_of)
    echo "explained after $((SECONDS - started)) s"
    "$python" -m cfexplain evaluate run="$explained" output_root="$out" cache_dir="$out/cache" \
        'metric=[auroc,validity,fid,classes]'
done
