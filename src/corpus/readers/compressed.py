"""Compressed files as a stream of bytes that survives damage in the middle.

A .gz file is a row of members (RFC 1952), a .zst file a row of frames (RFC 8878), and each of them opens with the same
few bytes. Where one is damaged the stream ends; `Unpacked.resume` looks for the next one that can be decompressed and
goes on there. The standard library's and zstandard's own readers stop for good, and the latter takes a file that is cut
short for a whole one.
"""

import io
import re
import zlib
from dataclasses import dataclass
from typing import IO, Any

import zstandard

BLOCK_BYTES = 1 << 14  # decompressed in one go; what damage in it would have given is left out
SCAN_BYTES = 1 << 20
TRY_BYTES = 1 << 18  # must hold the first block of a zstd frame, which has up to 128 KiB
MAX_WINDOW_BYTES = 1 << 31  # what `zstd --long=31` needs, as many published .zst corpora do


@dataclass(frozen=True)
class Damage:
    """What was wrong with a member or frame, and how many bytes of the file were passed over to reach the next."""

    reason: str
    lost_bytes: int


@dataclass(frozen=True)
class _Packing:
    """One way of compression: what its pieces are called, how they begin, and the errors of a damaged one."""

    piece: str
    opening: re.Pattern[bytes]
    error: type[Exception]

    def decompressor(self) -> Any:
        if self.error is zlib.error:
            return zlib.decompressobj(wbits=31)  # with header and checksum
        return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()


PACKINGS = {
    ".gz": _Packing("gzip member", re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"), zlib.error),
    ".zst": _Packing(
        "zstd frame", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL), zstandard.ZstdError
    ),
}
OPENING_BYTES = 4  # the length of what both patterns match


class Unpacked(io.RawIOBase):
    """The decompressed bytes of a file, to be put into an `io.BufferedReader`.

    position: bytes of the compressed file that are behind.
    stopped: whether the stream ended because of damage, which `resume` tells about.
    """

    def __init__(self, raw: IO[bytes], compression: str) -> None:
        self._raw = raw
        self._packing = PACKINGS[compression]
        self._piece: Any = None
        self._piece_start = 0
        self._input = b""
        self._output = memoryview(b"")
        self.position = 0
        self.stopped = False
        self._cut_short = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            if self.stopped or not (self._input or self._fill()):
                return 0
            if self._piece is None and not self._begin():
                continue
            try:
                self._output = memoryview(self._piece.decompress(self._input))
            except self._packing.error:
                self._stop()
                continue
            self._input = b""
            if self._piece.eof:
                self._input = self._piece.unused_data
                self._piece = None
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def resume(self) -> Damage | None:
        """Pass over the damage that stopped the stream; None where it did not stop or has been resumed."""
        if not self.stopped:
            return None
        self.stopped = False
        if self._cut_short:
            return Damage(f"last {self._packing.piece} is cut short", 0)
        fault = self.position
        self._raw.seek(self._next_piece(self._piece_start + 1, fault))
        self.position = self._raw.tell()
        return Damage(f"damaged {self._packing.piece}", max(self.position - fault, 0))

    def _fill(self) -> bool:
        """Read a block; False at the end of the file, which stops the stream inside of a piece."""
        self._input = self._raw.read(BLOCK_BYTES)
        self.position += len(self._input)
        if not self._input and self._piece is not None:
            self._piece = None
            self.stopped = self._cut_short = True
        return bool(self._input)

    def _begin(self) -> bool:
        """Start with the next piece; False where there is none."""
        self._input = (
            self._input.lstrip(b"\0") if self._packing.error is zlib.error else self._input
        )  # padding of tapes
        if not self._input:
            return False
        self._piece_start = self.position - len(self._input)
        if len(self._input) < OPENING_BYTES:
            more = self._raw.read(OPENING_BYTES - len(self._input))
            self._input += more
            self.position += len(more)
        if not self._packing.opening.match(self._input):
            self._stop()
            return False
        self._piece = self._packing.decompressor()
        return True

    def _stop(self) -> None:
        self.position -= len(self._input)
        self._input, self._piece = b"", None
        self.stopped = True

    def _next_piece(self, start: int, fault: int) -> int:
        """Where the next piece that can be decompressed begins, or the end of the file."""
        before = b""
        self._raw.seek(start)
        while block := self._raw.read(SCAN_BYTES):
            end = self._raw.tell()
            data = before + block
            for match in self._packing.opening.finditer(data):
                candidate = end - len(data) + match.start()
                if self._opens_at(candidate):
                    return candidate
            self._raw.seek(end)
            before = data[1 - OPENING_BYTES :]
        return max(self._raw.tell(), fault)

    def _opens_at(self, offset: int) -> bool:
        self._raw.seek(offset)
        piece = self._packing.decompressor()
        try:
            found = piece.decompress(self._raw.read(TRY_BYTES))
        except self._packing.error:
            return False
        return bool(found) or piece.eof
