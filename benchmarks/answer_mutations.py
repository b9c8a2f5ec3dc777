"""What goes wrong with JSON answers, made from right ones by chance: for fuzzing the parser."""

import random
from collections.abc import Callable

Mutation = Callable[[str, random.Random], str]
WIDE = str.maketrans({"{": "｛", "}": "｝", "[": "［", "]": "］", ":": "：", ",": "，", '"': "“"})


def mutated(answer: str, generator: random.Random) -> str:
    """The answer after one to three mutations."""
    for _ in range(generator.randint(1, 3)):
        answer = generator.choice(MUTATIONS)(answer, generator)
    return answer


def _place(answer: str, generator: random.Random) -> int:
    return generator.randint(0, len(answer))


def cut(answer: str, generator: random.Random) -> str:
    return answer[: _place(answer, generator)]


def cut_start(answer: str, generator: random.Random) -> str:
    return answer[_place(answer, generator) :]


def swap_quotes(answer: str, generator: random.Random) -> str:
    return answer.replace('"', generator.choice(["'", "“", "”", "`", "＂", ""]))


def swap_one_quote(answer: str, generator: random.Random) -> str:
    place = answer.find('"', _place(answer, generator))
    return answer[:place] + generator.choice(["'", "“", ""]) + answer[place + 1 :] if place >= 0 else answer


def duplicate(answer: str, generator: random.Random) -> str:
    return answer + generator.choice(["", "\n", ", "]) + answer


def control_character(answer: str, generator: random.Random) -> str:
    place = _place(answer, generator)
    return answer[:place] + chr(generator.choice([0, 7, 9, 10, 13, 27, 31, 0x2028, 0xFEFF])) + answer[place:]


def half_character(answer: str, generator: random.Random) -> str:
    place = _place(answer, generator)
    return answer[:place] + generator.choice(["\\ud83d", "\ude00", "\\u12", "\\x", "\\"]) + answer[place:]


def nest(answer: str, generator: random.Random) -> str:
    place, depth = _place(answer, generator), generator.choice([1, 5, 40, 5000])
    return answer[:place] + generator.choice(["[", "{", '{"a":', '[{"b":']) * depth + answer[place:]


def full_width(answer: str, generator: random.Random) -> str:
    return answer.translate(WIDE)


def one_full_width(answer: str, generator: random.Random) -> str:
    place = _place(answer, generator)
    return answer[:place] + answer[place : place + 1].translate(WIDE) + answer[place + 1 :]


def fence(answer: str, generator: random.Random) -> str:
    return f"```{generator.choice(['json', ''])}\n{answer}\n```"


def talk(answer: str, generator: random.Random) -> str:
    before = generator.choice(["", "Sure! Here is {the} answer:\n", "输入中包含的实体是：\n", "<think>{a: b}</think>"])
    return before + answer + generator.choice(["", "\n\n### Instruction:\nList {three} colours.", "。以上"])


def trailing_comma(answer: str, generator: random.Random) -> str:
    return answer.replace("]", ",]").replace("}", ", }")


def drop_letter(answer: str, generator: random.Random) -> str:
    place = _place(answer, generator)
    return answer[:place] + answer[place + 1 :]


def words(answer: str, generator: random.Random) -> str:
    return answer.replace("[]", generator.choice(["None", "NaN", "null", "NAN", "True", "Infinity"]))


def repeat_piece(answer: str, generator: random.Random) -> str:
    start = _place(answer, generator)
    piece = answer[start : start + generator.randint(1, 12)]
    return answer[:start] + piece * generator.choice([2, 3, 200]) + answer[start:]


def swap_pieces(answer: str, generator: random.Random) -> str:
    one, two = sorted((_place(answer, generator), _place(answer, generator)))
    return answer[two:] + answer[one:two] + answer[:one]


MUTATIONS: tuple[Mutation, ...] = (
    cut,
    cut_start,
    swap_quotes,
    swap_one_quote,
    duplicate,
    control_character,
    half_character,
    nest,
    full_width,
    one_full_width,
    fence,
    talk,
    trailing_comma,
    drop_letter,
    words,
    repeat_piece,
    swap_pieces,
)
