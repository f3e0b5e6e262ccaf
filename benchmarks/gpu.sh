#!/usr/bin/env bash
# Everything that a machine with a GPU should be asked, in one command of under eight minutes and without a network:
#   benchmarks/gpu.sh [--cpu] [FOLDER]     # FOLDER: of the JSON, $OUT or benchmarks/results by default
# The CUDA tests; the default run in fp32 (twice, to compare the bits), tf32 and bf16; the memory of a stacked client;
# seconds a round of the workloads but char_lstm with every engine and the bare loop. gpu.json sums up, gpu.log has all
# that was said.
# --cpu goes through the same motions in a minute, on less work, so that this script can be tested without a GPU.
# Exit code: 0 done, 1 if a step failed or ran out of time, 2 without a GPU, 3 without the data.
set -uo pipefail
cd "$(dirname "$0")/.."

device=cuda
if [ "${1-}" = --cpu ]; then device=cpu; shift; fi
gpus=$(python3 -c 'import torch; print(torch.cuda.device_count())') || exit 1
if [ $device = cuda ] && [ "$gpus" = 0 ]; then
    echo "benchmarks/gpu.sh: PyTorch finds no CUDA GPU on this machine; --cpu tests the script without one" >&2
    exit 2
fi
if ! ls data/MNIST/raw/train-images-idx3-ubyte* > /dev/null 2>&1; then
    echo "benchmarks/gpu.sh: data/MNIST/raw: no MNIST; run python3 run_federated.py once where there is a network" >&2
    exit 3
fi
out=${1-${OUT-benchmarks/results}}
mkdir -p "$out" || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export BENCHMARK_DEVICE=$device BENCHMARK_GPUS=$gpus PYTHONUNBUFFERED=1 GPU_OUT=$out GPU_WORK=$work
: > "$out/gpu.log"
: > "$work/steps"
BUDGET=460  # seconds for all steps together

# step NAME SECONDS COMMAND...: run COMMAND for SECONDS at most, or for what is left of the budget; note how it ended.
step() {
    local name=$1 limit=$2 began=$SECONDS code
    shift 2
    if [ $limit -gt $((BUDGET - SECONDS)) ]; then limit=$((BUDGET - SECONDS)); fi
    echo "== $name" | tee -a "$out/gpu.log"
    if [ $limit -le 0 ]; then
        code=124
    else
        timeout -k 5 $limit "$@" 2>&1 | tee -a "$out/gpu.log"
        code=${PIPESTATUS[0]}
    fi
    echo "== $name: exit code $code after $((SECONDS - began)) s" | tee -a "$out/gpu.log"
    printf '%s\t%s\t%s\n' "$name" "$code" $((SECONDS - began)) >> "$work/steps"
}

if [ $device = cuda ]; then
    tests=(-k cuda) run=() runs=("fp32 fp32" "again fp32" "tf32 tf32" "bf16 bf16") turns=0
    stacks=(1 10 50) models=()  # all
    workloads=(cnn 2nn default logistic gn_cnn lenet cifar_cnn)
    contenders=(sequential stacked "stacked, tf32" "stacked, bf16" distributed "bare, 1 thread" "central, 1 thread")
    if python3 -c 'import pfl' 2> /dev/null; then contenders+=("pfl, 1 thread"); fi
else
    tests=(-k "serves or cuda") runs=("fp32 fp32" "again fp32") turns=1 workloads=(logistic)
    stacks=(1 4) models=(--workload logistic)
    run=(--model logistic --optimizer sgd --init_lr 0.1 --global_epoch 1 --local_epoch 1)
    contenders=(stacked "bare, 1 thread")
fi
only=()
for name in "${contenders[@]}"; do only+=(--only "$name"); done

step tests 120 python3 -m pytest -q -p no:cacheprovider "${tests[@]}" tests/test_graphed.py
for pair in "${runs[@]}"; do
    read -r name precision <<< "$pair"
    step "run, $name" 60 python3 run_federated.py --device $device --precision "$precision" "${run[@]}" \
        --run_dir "$work/run-$name"
done
step memory 90 python3 -m benchmarks.memory --out "$out" --stacks "${stacks[@]}" "${models[@]}"
for workload in "${workloads[@]}"; do
    step "rounds, $workload" 90 python3 -m benchmarks.rounds --workload "$workload" "${only[@]}" --turns $turns \
        --out "$out"
done

python3 - << 'EOF_PYTHON'
import json, os
from pathlib import Path

import torch

out, work, device = (os.environ[key] for key in ("GPU_OUT", "GPU_WORK", "BENCHMARK_DEVICE"))
steps = [line.split("\t") for line in Path(work, "steps").read_text().splitlines()]
runs = {path.parent.name[4:]: json.loads(path.read_text()) for path in sorted(Path(work).glob("run-*/summary.json"))}
hashes = [runs[name]["model_sha256"] for name in ("fp32", "again") if name in runs]
result = {
    "device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "torch": torch.__version__,
    "cuda": torch.version.cuda, "same_bits_twice": len(hashes) == 2 and len(set(hashes)) == 1,
    "steps": [{"name": name, "exit_code": int(code), "seconds": int(seconds)} for name, code, seconds in steps],
    "runs": runs,
}
Path(out, "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
for name, run in runs.items():
    print(f"{name:6s} {run['test_accuracy']:.2%}  loss {run['test_loss']:.4f}  {run['wall_seconds']:.1f} s")
print(f"same bits twice: {result['same_bits_twice']}; results in {out}")
failed = [step["name"] for step in result["steps"] if step["exit_code"]]
raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)
EOF_PYTHON
