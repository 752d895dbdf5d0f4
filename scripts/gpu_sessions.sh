#!/usr/bin/env bash
# Compare policies on sessions with real vLLM on a GPU host that may be used in several short calls.
#
#   scripts/gpu_sessions.sh [PLAN]        PLAN: JSON for bidkv.gpu_host.sessions (scripts/gpu_sessions.json)
#
# Every call is the same. It keeps the bundle's parts that lie in .gpu/ (part.aa, part.ab, ...); the call that
# brings the last one installs vLLM and starts one process per GPU, each with its share of the plan. The
# processes outlive the call. Each call then waits, prints the progress, and leaves the results so far in $OUT
# as runs.tgz. Results that lie unpacked in .gpu/runs/ are not made again.
#
# Environment:
#   PARTS=4          parts of the bundle; 0 where vLLM is installed already
#   LIMIT_S=1500     no run starts that would end later than this after the start of the processes
#   CALL_S=540       longest time this call waits
#   OUT              folder for the results (default: .gpu/out)
#   GPUS             number of processes (default: the GPUs that nvidia-smi lists)
#   WORK             folder that survives calls (default: /tmp/bidkv-gpu)
#   PYTHON=python3   interpreter
#   ARGS             further arguments of bidkv.gpu_host.sessions
#   BLOCKS=20000     KV blocks, the null block included
set -euo pipefail
began=$SECONDS
cd "$(dirname "$0")/.."
plan=${1:-scripts/gpu_sessions.json}
PARTS=${PARTS:-4} LIMIT_S=${LIMIT_S:-1500} CALL_S=${CALL_S:-540} BLOCKS=${BLOCKS:-20000}
OUT=${OUT:-.gpu/out} WORK=${WORK:-/tmp/bidkv-gpu} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT" "$WORK/parts" "$WORK/runs"

if [ ! -e "$WORK/started" ]; then
  for part in .gpu/part.*; do [ -e "$part" ] && cp "$part" "$WORK/parts/"; done
  have=$(find "$WORK/parts" -name 'part.*' | wc -l)
  if [ "$have" -lt "$PARTS" ]; then echo "$have of $PARTS parts"; exit 0; fi
  if [ "$PARTS" -gt 0 ]; then
    mkdir -p "$WORK/site"
    cat "$WORK"/parts/part.* >"$WORK/bundle"
    tar -xf "$WORK/bundle" -C "$WORK/site"
    find "$WORK/site" -name '*.so.xz' -exec xz -d -f {} +
    rm -rf "$WORK/parts" "$WORK/bundle"
  fi
  # The copy keeps running processes apart from what later calls bring.
  cp -r src "$WORK/src"; cp "$plan" "$WORK/plan.json"
  find "$(dirname "$plan")" .gpu -maxdepth 1 -name '*.jsonl' -exec cp {} "$WORK/" \; 2>/dev/null || true
  if [ -d .gpu/runs ]; then cp .gpu/runs/*.json "$WORK/runs/" 2>/dev/null || true; fi
  gpus=${GPUS:-$(nvidia-smi -L | wc -l)}
  for number in $(seq "$gpus"); do
    env CUDA_VISIBLE_DEVICES=$((number - 1)) PYTHONPATH="$WORK/site:$WORK/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 \
      VLLM_LOGGING_LEVEL=${VLLM_LOGGING_LEVEL:-WARNING} setsid nohup "$PYTHON" -m bidkv.gpu_host.sessions --plan "$WORK/plan.json" \
      --output-dir "$WORK/runs" --num-gpu-blocks "$BLOCKS" --shard "$number/$gpus" --time-limit-s "$LIMIT_S" \
      ${ARGS:-} >"$WORK/driver-$number.log" 2>&1 </dev/null &
    echo $! >"$WORK/driver-$number.pid"
  done
  touch "$WORK/started"
  echo "installed and started after $((SECONDS - began)) s, $gpus processes"
fi

alive() { for file in "$WORK"/driver-*.pid; do kill -0 "$(cat "$file")" 2>/dev/null && return 0; done; return 1; }
while alive && [ $((SECONDS - began)) -lt "$CALL_S" ]; do sleep 1; done
tar -czf "$OUT/runs.tgz" -C "$WORK" runs $(cd "$WORK" && ls driver-*.log)
for log in "$WORK"/driver-*.log; do echo "== $(basename "$log")"; tail -n 40 "$log"; done
if alive; then echo "still running: call again"; else echo "finished"; fi
