#!/usr/bin/env bash
# What only a GPU can tell, within eight minutes, where there are PyTorch 2.11, Triton 3.6, numpy and no network:
# the kernels' integers against the reference's, then products and chunks (`make bench-gpu` without make or .venv).
#
#   scripts/device_check.sh                    # results go to device-out/, or to $OUT
#   PYTHON=/path/to/python scripts/device_check.sh
#   VLAPACK_BENCH_DRY=1 scripts/device_check.sh    # the same way without a card
#
# Each step has a time limit, and what it measured until then is kept: the same command goes on where this one stopped.
# Exit code: 0; 1 if an integer is wrong or the card fails; 2 if nothing can run here; 3 if a step's time was up.
set -uo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-$PWD/device-out}
mkdir -p "$out"
export PYTHONPATH=$PWD/src:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
read -ra python <<<"${PYTHON:-python3}"
: >"$out/summary.txt"

# step NAME SECONDS ARGUMENTS: one part of the benchmark; it is told to begin nothing in the last third of its time.
step() {
  local name=$1 limit=$2 code
  echo "== $name, at most $limit s"
  timeout --kill-after=10 "$limit" "${python[@]}" -m gpu --json "$out/gpu.json" --only "$name" \
    --seconds $((limit * 2 / 3)) 2>&1 | tee "$out/$name.log"
  code=${PIPESTATUS[0]}
  echo "$name: exit code $code after $SECONDS s in all" | tee -a "$out/summary.txt"
  return "$code"
}

if command -v nvidia-smi >/dev/null; then
  timeout 20 nvidia-smi >"$out/nvidia-smi.txt" 2>&1 || echo "nvidia-smi failed; see $out/nvidia-smi.txt"
fi

worst=0
for part in "correct 180" "products 110" "chunks 150"; do
  read -r name limit <<<"$part"
  step "$name" "$limit"
  code=$?
  case $code in 124 | 137) code=3 ;; esac
  # Without every check nothing may be measured; but chunks do not need the products.
  if [ "$name" = correct ] && [ "$code" != 0 ]; then exit "$code"; fi
  if [ "$worst" != 1 ] && [ "$code" != 0 ]; then worst=$code; fi
done
exit "$worst"
