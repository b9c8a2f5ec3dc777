"""What reading text does not need is not loaded: workers start quickly and stay small."""

import subprocess
import sys

from src.command import ROOT


def test_readers_load_neither_torch_nor_the_libraries_of_formats_not_met(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n')
    code = f"""
import sys
from src.corpus.readers import *
reading = Reading()
(part,) = plan_parts(find_files({str(tmp_path)!r}), reading)
print(len(list(read_part(part, reading, ReadReport()))))
print([m for m in ("torch", "transformers", "pyarrow", "resiliparse", "huggingface_hub") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["1", "[]"], done.stderr
