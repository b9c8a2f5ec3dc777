"""The demo corpus: English and code taken from the running Python, and how the verse in the repository was cut.

Everything here is made from what is on the machine: no download, no network. The texts and their licences are described
in ``data/demo/README.md``.

    python -m src.corpus.demo FOLDER    # cut the verse again from an unpacked chinese-poetry package
"""

import gzip
import hashlib
import json
import os
import pydoc_data.topics
import random
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from src.corpus.readers import Document
from src.errors import UserError

CODE_BYTES = 1_200_000
CODE_FILE_BYTES = (500, 30_000)  # shorter is mostly imports, longer would be one file for a whole split
VERSE_BYTES = 690_000
VERSE_SEED = 618  # the year the Tang dynasty began
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}


def english() -> Iterator[Document]:
    """The Python language reference as ``help()`` carries it: one document a topic, reStructuredText left as it is."""
    for topic, text in sorted(pydoc_data.topics.topics.items()):
        yield Document(text, f"pydoc/{topic}")


def code() -> Iterator[Document]:
    """Modules of the standard library, about 1.2 MB of them, chosen by the hash of their name.

    Raises:
        UserError: this Python comes without the source of its library.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    low, high = CODE_FILE_BYTES
    size = 0
    for name in sorted(_modules(root), key=lambda name: hashlib.sha256(name.encode()).digest()):
        raw = (root / name).read_bytes()
        if not low <= len(raw) <= high:
            continue
        try:
            yield Document(raw.decode("utf-8"), name)
        except UnicodeDecodeError:
            continue
        size += len(raw)
        if size >= CODE_BYTES:
            return
    if size == 0:
        raise UserError(
            f"{root} holds no .py files: run the demo with a Python that has its standard library as source"
        )


def _modules(root: Path) -> Iterator[str]:
    """Paths of the library's modules below its root; builds for one platform (``config-3.11-…``) are left out."""
    for folder, inside, files in os.walk(root):
        inside[:] = [name for name in inside if name not in LEFT_OUT and "-" not in name]
        yield from ((Path(folder) / file).relative_to(root).as_posix() for file in files if file.endswith(".py"))


def verse(package: Path) -> Iterator[Document]:
    """Tang poems out of an unpacked chinese-poetry package, 1 to 24 of one poet a document so that lengths differ."""
    by_poet: dict[str, list[str]] = defaultdict(list)
    for file in sorted((package / "dist" / "quantangshi").glob("poet.tang.*.json")):
        for poem in json.loads(file.read_text(encoding="utf-8")):
            by_poet[poem["author"]].append(poem["title"] + "\n" + "\n".join(poem["paragraphs"]))
    poets = sorted(by_poet, key=lambda poet: hashlib.sha256(poet.encode()).digest())
    sizes = cycle(random.Random(VERSE_SEED).choices((1, 2, 4, 8, 16, 24), k=97))
    size = 0
    for poet in poets:
        poems = [poem for poem in by_poet[poet] if "□" not in poem]  # a square stands for a lost character
        while poems and size < VERSE_BYTES:
            count = next(sizes)
            text = f"{poet}\n\n" + "\n\n".join(poems[:count]) + "\n"
            poems = poems[count:]
            size += len(text.encode())
            yield Document(text, poet)


def write_verse(package: Path, target: Path) -> None:
    """Write the slice, the same bytes each time."""
    lines = [json.dumps({"text": document.text}, ensure_ascii=False) for document in verse(package)]
    target.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", compresslevel=9, mtime=0))


if __name__ == "__main__":
    write_verse(Path(sys.argv[1]), Path(__file__).resolve().parents[2] / "data" / "demo" / "zh_verse.jsonl.gz")
