"""A loop at the end of a text is found, in any script; lists, refrains, poems and code that end are not."""

import gzip
import json
import random
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from src.generation.repetition import LEAST_WORDS, repeats_from

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("argparse", "ast", "calendar", "datetime", "difflib", "html.parser", "json.decoder", "statistics", "typing")
LOOPS = {
    "a Chinese sentence": ("我喜欢旅行。", "我去过很多地方，看过很多风景。"),
    "an English sentence": ("The city is old. ", "It is known for its food and for its river. "),
    "a line of code": ("def f(x):\n", "    x = x + 1\n"),
    "one word": ("Then he said: ", "no "),
    "one character": ("他说：", "好"),
    "one mark": ("你好", "；"),
    "a line that is counted": ("Steps:\n", "1. Wait for the bus.\n"),
    "two lines": ("Names:\n", "- Anna\n- Boris\n"),
    "a long passage": ("Start. ", " ".join(f"word{number}" for number in range(70)) + ". "),
}
WHOLE = {
    "a numbered list": "\n".join(
        f"{number}. Wash the {thing} in cold water."
        for number, thing in enumerate(
            ["plums", "pears", "cups", "jars", "lids", "spoons", "forks", "pans", "lamps", "coats"], 1
        )
    ),
    "a list with one verb": "\n".join(
        f"- Buy {thing}" for thing in ["milk", "bread", "salt", "eggs", "rice", "tea", "oil"]
    ),
    "a song": (
        "Over the water the ferry goes home, over the water, over the foam,\n" * 2
        + "and nobody knows where the ferryman sleeps.\n"
    )
    * 2,
    "a refrain sung twice": "Tonight we carry lanterns through the snow, and nobody will ask us where we go.\n" * 2,
    "a multiplication table": "\n".join(f"3 x {number} = {3 * number}" for number in range(1, 30)),
    "a table in Markdown": "| a | b | c | d |\n|---|---|---|---|\n" + "| 1 | 2 | 3 | 4 |\n| 5 | 6 | 7 | 8 |\n",
    "closing tags": "<p>done</p>" + "</div>" * 6,
    "a ruler": "Title\n" + "=" * 120,
    "closing brackets": "print(f(g(h(1))))" + "\n}" * 12,
    "zeros": "matrix = [" + "0, " * 30 + "0]",
    "laughter": "哈哈哈哈哈哈哈哈哈哈，太好笑了",
    "laughter at the end": "ha " * 20,
    "nothing": "",
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_found_and_what_was_said_once_stands_before_it(name: str):
    start, unit = LOOPS[name]
    text = start + unit * (60 if len(unit) < 100 else 5)
    assert text[: repeats_from(text)].rstrip() == (start + unit).rstrip()


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_found_wherever_the_limit_of_tokens_cuts_it(name: str):
    start, unit = LOOPS[name]
    text = start + unit * (60 if len(unit) < 100 else 5)
    for cut in range(1, 2 * len(unit), 3):
        assert text[: repeats_from(text[:-cut])].rstrip() == (start + unit).rstrip()


@pytest.mark.parametrize("name", WHOLE)
def test_what_repeats_for_good_reasons_is_no_loop(name: str):
    assert repeats_from(WHOLE[name]) is None


def test_a_loop_of_lines_is_found_though_the_model_counts_them():
    text = "要点：\n1. 玩得开心！\n" + "".join(f"{number}. 家家鸟！\n" for number in range(2, 40))
    assert text[: repeats_from(text)].rstrip() == "要点：\n1. 玩得开心！\n2. 家家鸟！"


def test_a_text_that_left_its_loop_is_no_loop():
    assert repeats_from("I do not know. " * 30 + "But my sister does, and she lives two streets from here.") is None


words = st.text(alphabet="abcdefgh", min_size=1, max_size=4)


@given(st.lists(words, max_size=30), st.lists(words, min_size=1, max_size=30), st.integers(3, 6), st.data())
@example([], ["a"], 3, None)
def test_three_copies_of_forty_words_are_a_loop_and_the_end_of_the_first_is_found(before, unit, copies, data):
    copies = max(copies, -(-LEAST_WORDS // len(unit)))
    text = " ".join([*before, *unit * copies])
    found = repeats_from(text)
    assert found is not None and found <= len(" ".join([*before, *unit])) + 1


@given(st.integers(0, 2**32), st.integers(0, 400), st.booleans())
def test_words_in_random_order_are_no_loop(seed: int, length: int, chinese: bool):
    alphabet = "春夏秋冬山水风月花鸟人家" if chinese else [f"w{number} " for number in range(12)]
    text = "".join(random.Random(seed).choices(alphabet, k=length))
    assert repeats_from(text) is None


@given(st.text())
def test_any_text_has_an_answer_within_it(text: str):
    found = repeats_from(text)
    assert found is None or 0 < found < len(text)


def real_texts() -> list[tuple[str, str]]:
    """Python's reference and its larger modules, and verse: they don't change with this repository."""
    texts = sorted(topics.items())
    texts += [(f"{module}.py", Path(find_spec(module).origin).read_text(encoding="utf-8")) for module in MODULES]
    with gzip.open(ROOT / "data" / "demo" / "zh_verse.jsonl.gz", "rt", encoding="utf-8") as verses:
        texts += [("verse", json.loads(line)["text"]) for line in islice(verses, 100)]
    return texts


def test_real_pages_code_and_verse_are_no_loops_wherever_they_are_cut():
    """Cut at 2,000 places into pieces of 200 to 2,500 characters, as an answer that ends at its limit would be."""
    texts, chance = real_texts(), random.Random(0)
    alarms = []
    for _ in range(2000):
        name, text = chance.choice(texts)
        end = chance.randint(min(len(text), 50), len(text))
        piece = text[max(0, end - chance.randint(200, 2500)) : end]
        if repeats_from(piece) is not None:
            alarms.append((name, piece[-80:]))
    assert not alarms
