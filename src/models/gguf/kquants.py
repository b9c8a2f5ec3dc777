"""K-quants: llama.cpp's types with scales of scales for 256 values, made by llama.cpp's own quantiser.

Only llama-cpp-python hands that quantiser out; it comes as source and builds in about ten minutes of CPU time. Rows
that are no multiple of 256 can't have these types: llama.cpp gives them larger ones, which is reported.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.models.gguf.quantize import K_TYPES, check_file_type
from src.models.weight_files import bytes_progress

STEP = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")  # llama.cpp's line for each tensor


def quantize_k(source: Path, target: Path, file_type: str) -> None:
    """Write the model of a GGUF file as one of K-quants.

    Raises:
        UserError: llama-cpp-python is not installed, or llama.cpp fails.
    """
    check_file_type(file_type)
    import ctypes

    import llama_cpp

    messages: list[str] = []
    with bytes_progress(f"quantising to {file_type}", source.stat().st_size) as advance:
        done = 0

        def note(level: int, text: bytes, data: Any) -> None:
            nonlocal done
            messages.append(text.decode("utf-8", "replace"))
            if step := STEP.search(messages[-1]):
                now = source.stat().st_size * int(step[1]) // int(step[2])
                advance(now - done)
                done = now

        callback = llama_cpp.llama_log_callback(note)
        llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
        try:
            params = llama_cpp.llama_model_quantize_default_params()
            params.ftype = K_TYPES[file_type]
            params.allow_requantize = True  # the user's file may be of 8 bits
            params.nthread = os.cpu_count() or 1
            failed = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
        finally:
            llama_cpp.llama_log_set(llama_cpp.llama_log_callback(0), ctypes.c_void_p(0))
    if failed:
        reason = next((text.strip() for text in reversed(messages) if text.strip()), "no reason given")
        raise UserError(f"llama.cpp cannot quantise the model to {file_type} ({reason}): give another file_type")
