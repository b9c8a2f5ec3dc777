"""Lines of a file or of a range of its bytes, and files as a whole; none of them longer than a limit.

Only a line feed ends a line. A line belongs to the range in which it begins, so that ranges which cover a file have
each of its lines once.
"""

from collections.abc import Iterator

from src.corpus.readers.slices import Input, Stream, open_stream
from src.errors import UserError

LINE_FEED = 10
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
STEP_BYTES = 1 << 20
ADVANCE_LINES = 128  # how often the report's position is brought up to date


def place_mark(input: Input) -> str:
    """What stands before a line's place: nothing before its number where the file is read from its first line to its
    last, ``@`` before the byte at which it begins where a range of the file is."""
    return "" if input.slice.whole else "@"


def records(input: Input) -> Iterator[tuple[int, bytes]]:
    """The lines of the slice's stride that are not blank, with their places; one that is too long is counted as bad.

    Raises:
        UserError: the file cannot be opened, or is UTF-16.
    """
    first, step = input.slice.stride
    limit = input.reading.max_record_bytes
    index = 0
    for place, line in lines(input):
        if not line or line.isspace():
            continue
        index += 1
        if (index - 1) % step != first:
            continue
        if len(line) > limit and line[-1] != LINE_FEED:
            input.bad(f"{place_mark(input)}{place}", f"longer than {limit} bytes")
        else:
            yield place, line


def lines(input: Input) -> Iterator[tuple[int, bytes]]:
    """Lines with their ends, each with its place: its number, or its first byte in a range.

    One that is too long comes cut, one byte longer than the limit; a blank one stands where damage tore the text apart.
    """
    start, end = input.slice.start, input.slice.end
    numbered = input.slice.whole
    limit = input.reading.max_record_bytes + 1
    with open_stream(input.path) as stream:
        input.begin(input.size)
        offset = _enter(stream, start)
        number = 0
        while end is None or offset < end:
            line = stream.readline(limit)
            if not line:
                damage = stream.resume()
                if damage is None:
                    break
                input.damaged(number + 1, damage)
                yield number + 1, b"\n"
                continue
            here = offset
            offset += len(line)
            number += 1
            if number % ADVANCE_LINES == 0:
                input.advance(stream.position if numbered else offset - start)
            if line[-1] != LINE_FEED:
                if len(line) == limit:
                    offset += _pass_over(stream)
                elif stream.stopped:
                    continue  # the torn end is part of the damage
            if here == 0:
                line = without_mark(input, line)
            yield (number if numbered else here), line
        input.finish()


def whole(input: Input) -> bytes | None:
    """All of a file as far as it can be read; None, counted as bad, where it is longer than the limit."""
    limit = input.reading.max_record_bytes
    blocks: list[bytes] = []
    size = 0
    with open_stream(input.path) as stream:
        input.begin(input.size)
        while size <= limit:
            block = stream.read(STEP_BYTES)
            if not block:
                damage = stream.resume()
                if damage is None:
                    break
                input.damaged("", damage)
            blocks.append(block)
            size += len(block)
    input.finish()
    if size > limit:
        input.bad("", f"longer than {limit} bytes")
        return None
    return b"".join(blocks)


def without_mark(input: Input, text: bytes) -> bytes:
    """A file's beginning without the mark of UTF-8; that of UTF-16 is a `UserError`."""
    if text.startswith(UTF16_MARKS):
        raise UserError(f"{input.path} is UTF-16: convert it with iconv -f UTF-16 -t UTF-8")
    return text.removeprefix(UTF8_MARK)


def _enter(stream: Stream, start: int) -> int:
    """Go to the first line that begins at `start` or later, and say where it begins."""
    if start == 0:
        return 0
    stream.seek(start - 1)
    return start - 1 + _pass_over(stream)


def _pass_over(stream: Stream) -> int:
    """Read to the end of the line without keeping it, and say how many bytes that were."""
    size = 0
    while line := stream.readline(STEP_BYTES):
        size += len(line)
        if line[-1] == LINE_FEED:
            break
    return size
