"""Whether a text has run into a loop at its end, as language models do that say the same again and again.

It works on words rather than on a model's tokens, so that it means the same for every model: a Chinese, Japanese or
Korean character is a word, so is a run of other letters and digits, and so is a mark, but for a run of one that rulers
are drawn with, which is one word (``=====``). Blanks, line ends and the numbers of a list's items are none, so a loop
of lines is one whether the model counts them or not.
"""

import re

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|([-=_*#~.+|/\\─━═])\1{{0,99}}|[^\w\s]")
ITEM = re.compile(r"^[ \t]*\d{1,4}[.)、．:：](?=\s|$)", re.MULTILINE)
LEAST_WORDS = 40  # a shorter end is none: closing tags, brackets and exclamations repeat for good reasons
NEARLY_A_COPY = 20  # words of a third copy after which it counts, however long a copy is: two are a refrain


def repeats_from(text: str) -> int | None:
    """Where the text begins to repeat itself up to its end, as an index of its characters; None where it doesn't.

    The text repeats if its last L words have a period p, each word being equal to the one p words before it, L is at
    least 40, and after two whole copies of those p words a third has come, whole or to at least 20 words. The last word
    may be cut off. The index is that of the second copy, after a mark that closes the first and from the start of
    its line: what stands before it has been said once.
    """
    unnumbered = ITEM.sub(lambda item: " " * len(item[0]), text)
    matches = list(WORD.finditer(unnumbered))
    words = [match[0] for match in matches]
    count = len(words)
    for period in range(1, (count - 1) // 2 + 1):
        whole = count - 1 if _is_cut(words[-1], words[-1 - period]) else count
        first = whole  # of the words that are equal to the one a period before
        while first > period and words[first - 1] == words[first - 1 - period]:
            first -= 1
        if whole - first + period >= max(LEAST_WORDS, min(3 * period, 2 * period + NEARLY_A_COPY)):
            if _closes(unnumbered, matches[first].start()) and words[first] != words[first - 1]:
                first += 1
            start = matches[first].start()
            line = text.rfind("\n", 0, start) + 1
            return line if unnumbered[line:start].isspace() else start
    return None


def _closes(text: str, start: int) -> bool:
    """Whether a mark stands right after a word, as a full stop does: it belongs to what was said before."""
    return not text[start].isalnum() and not text[start - 1].isspace()


def _is_cut(word: str, whole: str) -> bool:
    return word != whole and whole.startswith(word)
