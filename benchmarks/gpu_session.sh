#!/usr/bin/env bash
# Everything that is measured on a GPU box, in stages, each with its time limit, everything written as it is measured.
#
#   bash benchmarks/gpu_session.sh STAGE[=SECONDS]...        one after the other, in the foreground
#   bash benchmarks/gpu_session.sh start STAGE[=SECONDS]...  the same in the background: goes on when this command has ended
#   bash benchmarks/gpu_session.sh wait SECONDS              until the background is done, or so long; then a summary
#   bash benchmarks/gpu_session.sh pack | stop               put what there is into $OUT | end the background
#
# Stages: bundle     vLLM from /root/bundle/part.* (a box with PyTorch and without internet), and a check of the imports
#         limits     ceilings, roofline, truth of measure, cost of sampling, profile: one engine start;  truth = truth and sampling again, more often;
#                   profile = ceilings, decode, and where the time of a step goes with 1, 32 and 256 streams
#         NN         a notebook (01 to 05) through helpers.run;  notebooks = 01 05 03 04 02
#         planner    benchmarks/record_planner.py: as many configurations as the time allows
#         kills      SIGKILL of kernels and servers;  opens = engines opened and closed;  memory = kills opens
# A stage that has succeeded is not run again. TOTAL=SECONDS ends the list so long after its start, whatever is left.
# Settings: MODEL LOAD_FORMAT (the notebooks' parameters; default dummy weights), RESULTS, PYTHON, ONLY (planner's ids), KILLS, OPENS.
set -uo pipefail
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ -z ${PYTHON:-} && -x $REPO/.venv/bin/python ]] && export PYTHON=$REPO/.venv/bin/python  # after make setup
SITE=${SITE:-$HOME/vllm_site}
RESULTS=${RESULTS:-$HOME/gpu_results}
# A copy to run from: a lent box replaces the working tree at every call, under the feet of what runs in the background.
WORK=${WORK:-$HOME/workbook}
BUNDLE=${BUNDLE:-/root/bundle}
LOAD_FORMAT=${LOAD_FORMAT-dummy}
MODEL=${MODEL-}
declare -A SECONDS_OF=([bundle]=150 [limits]=240 [truth]=420 [profile]=200 [01]=300 [02]=480 [03]=180 [04]=180 [05]=300 [planner]=480 [kills]=150 [opens]=300)
export PYTHONUNBUFFERED=1 VLLM_NO_USAGE_STATS=1 NO_COLOR=1
unset PYTHONDONTWRITEBYTECODE  # set on the lent box: every process would compile all of vLLM's modules again
# vLLM's own default; the workbook's is spawn. Importing vLLM takes 7 to 10 s on the lent box, and with spawn again in every engine process.
export VLLM_WORKER_MULTIPROC_METHOD=${VLLM_WORKER_MULTIPROC_METHOD:-fork}
mkdir -p "$RESULTS"

say() { echo "[$(date -u +%H:%M:%S)] $*" | tee -a "$RESULTS/session.log"; }

environment() {
  # Not on a machine with vLLM installed. vLLM's compiled code stays in ~/.cache/vllm between the stages.
  [[ -e $SITE/activate ]] && source "$SITE/activate"
  export PYTHONPATH="$WORK${PYTHONPATH:+:$PYTHONPATH}" BENCHMARK_RECORDS="$RESULTS/records"
  PYTHON=${PYTHON:-python3}
  model_args=() notebook_args=()
  [[ -n $MODEL ]] && model_args+=(--model "$MODEL") && notebook_args+=(-p MODEL "$MODEL")
  [[ -n $LOAD_FORMAT ]] && notebook_args+=(-p LOAD_FORMAT "$LOAD_FORMAT")
  if [[ -n $LOAD_FORMAT ]]; then model_args=(--model "${MODEL:-Qwen/Qwen2.5-7B-Instruct}" --load-format "$LOAD_FORMAT"); fi
  cd "$WORK" || exit 1
}

copy_work() {  # the tracked and new files of the repository, without git's own and what a build left
  [[ $WORK == "$REPO" ]] && return
  mkdir -p "$WORK" && tar -C "$REPO" --exclude=./.git --exclude=./.venv --exclude=./.gpu_box --exclude=./runs --exclude=./results \
    --exclude=__pycache__ --exclude=./.hypothesis -cf - . | tar -C "$WORK" -xf -
}

stage_bundle() {
  if [[ ! -e $SITE/vllm ]]; then
    cat "$BUNDLE"/part.* | tar -x -C "$BUNDLE" || return 1
    local folder found
    found=$(find "$BUNDLE" -name install.sh -printf '%h\n' | sort)
    for folder in $found; do SITE="$SITE" bash "$folder/install.sh" "$folder" || return 1; done
    rm -rf "$BUNDLE"
    python3 -m compileall -q -j 0 "$SITE" "$(python3 -c 'import torch; print(torch.__path__[0])')" >/dev/null 2>&1
  fi
  environment
  local begin=$SECONDS
  "$PYTHON" -c 'import vllm' && echo "first import of vllm: $((SECONDS - begin)) s"
  nvidia-smi --query-gpu=name,memory.total,memory.used,driver_version --format=csv,noheader
  "$PYTHON" - <<'PY'
import importlib, time
begin = time.time()
for name in "vllm torch transformers papermill nbconvert ipykernel ipywidgets nvitop pandas matplotlib psutil filelock httpx openai mistune yaml prometheus_client pynvml aiohttp helpers.run.runner".split():
    try:
        importlib.import_module(name)
    except Exception as error:
        print("MISSING", name, type(error).__name__, error)
import vllm, torch
from helpers.engine.profile import load_profile
print("vllm", vllm.__version__, "torch", torch.__version__, f"imports {time.time() - begin:.1f} s;", load_profile(load_format="dummy"))
PY
}

stage_limits() { environment; "$PYTHON" -m benchmarks.limits "${model_args[@]}"; }
stage_truth() { environment; "$PYTHON" -m benchmarks.limits "${model_args[@]}" --parts truth,sampling --pairs 15 --rounds 12; }
stage_profile() { environment; "$PYTHON" -m benchmarks.limits "${model_args[@]}" --parts ceilings,decode,profile; }

stage_notebook() {
  environment
  # The runner ends the notebook itself a little before this stage's limit, and writes its summary.
  "$PYTHON" -m helpers.run --out "$RESULTS/notebooks" --notebooks "$1" --timeout $(($2 - 12)) "${notebook_args[@]}"
  local code=$?
  for kind in json md; do cp "$RESULTS/notebooks/summary.$kind" "$RESULTS/notebooks/summary_$1.$kind" 2>/dev/null; done
  "$PYTHON" - "$RESULTS/notebooks/summary_$1.json" <<'PY'
import json, sys
for nb in json.load(open(sys.argv[1]))["notebooks"]:
    slow = sorted(nb["cell_times"], key=lambda c: -c["seconds"])[:8]
    print(nb["name"], nb["status"], f"{nb['seconds']} s, {nb['cells_done']}/{nb['cells']} cells; slowest:",
          "; ".join(f"[{c['k']}] {c['seconds']:.0f} s {c['first_line'][:40]}" for c in slow))
    if nb["failure"]:
        f = nb["failure"]
        print("  cell", f.get("cell"), f.get("section"), "|", f.get("ename"), str(f.get("evalue"))[:600])
        print("  " + "\n  ".join(str(f.get("traceback", "")).splitlines()[-6:]))
PY
  return $code
}

stage_planner() {
  environment
  "$PYTHON" benchmarks/record_planner.py measure benchmarks/planner_configs_gpu1.json --budget-s $(($1 - 15)) --timeout-s 150 \
    --out "$RESULTS/records/planner_gpu1.jsonl" ${ONLY:+--only "$ONLY"}
}

stage_kills() { environment; "$PYTHON" tests/gpu/kills.py --times "${KILLS:-5}" ${TOGETHER---together}; }
stage_opens() {
  environment
  "$PYTHON" tests/gpu/memory_returns.py --opens "${OPENS:-20}" --run session --budget-s $(($1 - 10))
}

gpu_used() { nvidia-smi --query-gpu=memory.used --format=csv,noheader 2>/dev/null | tr '\n' ' '; }

run_stage() {  # NAME SECONDS
  local name=$1 limit=$2 log="$RESULTS/logs/$1.log" began=$SECONDS code before
  mkdir -p "$RESULTS/logs" "$RESULTS/records" "$RESULTS/done"
  if [[ -e $RESULTS/done/$name ]]; then say "$name: done before"; return; fi
  before=$(gpu_used)
  say "$name: begins, at most $limit s"
  case $name in
    0?) inner="stage_notebook $name $limit" ;;
    *) inner="stage_$name $limit" ;;
  esac
  # A session of its own, so that the limit ends everything below; TERM first: the runner then writes its summary.
  setsid timeout --kill-after=10 "$limit" bash -c "source '$REPO/benchmarks/gpu_session.sh' functions; $inner" >>"$log" 2>&1 &
  echo $! >"$RESULTS/stage_pid"
  wait $!
  code=$?
  [[ $code == 0 ]] && touch "$RESULTS/done/$name"
  printf '{"stage": "%s", "code": %d, "seconds": %d, "device_used_before": "%s", "device_used_after": "%s", "time_utc": "%s"}\n' \
    "$name" "$code" $((SECONDS - began)) "$before" "$(gpu_used)" "$(date -u +%FT%TZ)" >>"$RESULTS/records/stages.jsonl"
  [[ $code == 3 ]] && say "$name: its time was up; what is recorded is recorded, and the same stage goes on"
  say "$name: code $code after $((SECONDS - began)) s; device memory $before-> $(gpu_used)"
  # What a person needs to see of it; the whole log travels in the archive.
  grep -v '^\s*$' "$log" | tail -n $([[ $code == 0 ]] && echo 30 || echo 45) | cut -c1-400 >>"$RESULTS/session.log"
}

expand() {
  local word names name seconds
  for word in "$@"; do
    seconds=
    [[ $word == *=* ]] && seconds="=${word#*=}"
    case ${word%%=*} in
      notebooks) names="01 05 03 04 02" ;;
      memory) names="kills opens" ;;
      *) names=${word%%=*} ;;
    esac
    for name in $names; do echo "$name$seconds"; done
  done
}

run_stages() {
  local begin=$SECONDS word name limit left
  for word in $(expand "$@"); do
    name=${word%%=*}
    [[ -v SECONDS_OF[$name] ]] || { say "There is no stage $name; there are ${!SECONDS_OF[*]}"; continue; }
    limit=${SECONDS_OF[$name]}
    [[ $word == *=* ]] && limit=${word#*=}
    left=$((${TOTAL:-100000} - (SECONDS - begin)))
    if ((left < 45)); then say "$name: not begun, $left s are left"; continue; fi
    run_stage "$name" $((limit < left ? limit : left))
  done
  say "all stages are through"
  touch "$RESULTS/finished"
}

pack() {
  [[ -n ${OUT:-} ]] || return 0
  mkdir -p "$RESULTS/engine_logs"
  find "${XDG_CACHE_HOME:-$HOME/.cache}/vllm-workbook/logs" -name '*.log' -size -3M -exec cp -u {} "$RESULTS/engine_logs/" \; 2>/dev/null
  tar -C "$RESULTS" -czf "$OUT/records.tar.gz" $(cd "$RESULTS" && ls -d records logs session.log notebooks/*.json* notebooks/*.md done 2>/dev/null)
  tar -C "$RESULTS" -czf "$OUT/engine_logs.tar.gz" engine_logs
  [[ -d $RESULTS/notebooks ]] && tar -C "$RESULTS" -czf "$OUT/notebooks.tar.gz" --exclude='*.jsonl.lock' notebooks
  ls -l "$OUT"
}

show() {  # what was said since the last time, and how things stand
  local seen=0
  [[ -e $RESULTS/.shown ]] && seen=$(<"$RESULTS/.shown")
  tail -c +$((seen + 1)) "$RESULTS/session.log" | tail -c 10500
  stat -c %s "$RESULTS/session.log" >"$RESULTS/.shown"
}

[[ ${1:-} == functions ]] && return 0 2>/dev/null
case ${1:-} in
  start)
    shift
    rm -f "$RESULTS/finished"
    copy_work
    setsid env -u OUT BACKGROUND=1 bash "$WORK/benchmarks/gpu_session.sh" "$@" </dev/null >"$RESULTS/background.log" 2>&1 &
    echo $! >"$RESULTS/pid"
    echo "started: $*"
    ;;
  wait)
    end=$((SECONDS + ${2:-500}))
    while [[ ! -e $RESULTS/finished ]] && ((SECONDS < end)); do sleep 1; done
    show
    [[ -e $RESULTS/finished ]] && echo "FINISHED" || { echo "STILL RUNNING:"; tail -n 4 "$(ls -t "$RESULTS"/logs/*.log | head -1)" | cut -c1-300; }
    pack
    ;;
  pack) pack ;;
  stop)
    # Only what this script started: the list first, so that it begins no further stage, then the running stage.
    for file in pid stage_pid; do [[ -e $RESULTS/$file ]] && kill -TERM -- "-$(<"$RESULTS/$file")" 2>/dev/null; done
    touch "$RESULTS/finished"
    sleep 5
    show
    pack
    ;;
  "" | -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" ;;
  *)
    copy_work
    run_stages "$@"
    [[ -n ${BACKGROUND:-} ]] || { show; pack; }
    ;;
esac
