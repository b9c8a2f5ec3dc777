"""How dates and quantities are written, so that Wikidata's values can be found in a text.

`renderings` gives every spelling with the most telling first; `find_value` looks for them in that order. A date may be
written less exactly than it is known, but is never taken out of another that is written more exactly: "February 12" is
not in "February 12, 1865". A bare year says too little in English, where any number may be one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation, localcontext
from functools import lru_cache

from src.instructions.kg2instruction.mentions import bounded
from src.instructions.kg2instruction.templates import MONTHS
from src.instructions.kg2instruction.vocabulary import Language
from src.instructions.kg2instruction.wikidata import DAY, MONTH, Value

CHINESE_MONTHS = ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二")
BEFORE_CHRIST = {"en": (" BC", " BCE", " B.C."), "zh": ("公元前", "西元前", "前")}
MAX_ERROR = Decimal("0.005")  # of a rounded number
MIN_DIGITS = 4  # of a number without a unit
MARKED_YEARS = {"en": 1000, "zh": 100}  # earlier years are no date without a month or a mark such as AD
MAX_AMOUNT_DIGITS = 400  # Wikidata's own bound is lower; the mass of a star in kilograms has 31


@lru_cache(maxsize=1 << 14)
def dates(year: int, month: int, day: int, precision: int, language: Language, bare_years: bool) -> tuple[str, ...]:
    """Spellings of a date, exact ones first; negative years are before Christ."""
    write = _chinese_dates if language == "zh" else _english_dates
    found: dict[str, None] = {}
    if precision >= DAY:
        found |= dict.fromkeys(_longest_first(write(year, month, day)))
    if precision >= MONTH:
        found |= dict.fromkeys(_longest_first(write(year, month, 0)))
    if bare_years or language == "zh" or year < 0:
        found |= dict.fromkeys(_longest_first(write(year, 0, 0)))
    if precision >= DAY:
        found |= dict.fromkeys(_longest_first(write(0, month, day)))
    return tuple(found)


def _english_dates(year: int, month: int, day: int) -> Iterator[str]:
    years = [f"{-year}{mark}" for mark in BEFORE_CHRIST["en"]] if year < 0 else [str(year)] if year else []
    if 0 < year < 1000:
        years += [f"{year} AD", f"{year} CE", f"AD {year}", f"A.D. {year}"]
    if not month:
        yield from years[0 < year < MARKED_YEARS["en"] :]
        return
    name = MONTHS[month - 1]
    for word in dict.fromkeys((name, name[:3], f"{name[:3]}.")):
        if not day:
            yield from (f"{word}{comma} {y}" for y in years for comma in ("", ","))
            continue
        for number in dict.fromkeys((str(day), f"{day:02d}", f"{day}{_ordinal(day)}")):
            yield from (f"{number} {word} {y}" for y in years or ())
            yield from (f"{word} {number}, {y}" for y in years)
            yield from (f"{word} {number} {y}" for y in years)
            if not years:
                yield from (f"{number} {word}", f"{word} {number}")
    if year > 0:
        yield f"{year:04d}-{month:02d}" + (f"-{day:02d}" if day else "")


def _ordinal(day: int) -> str:
    return "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def _chinese_dates(year: int, month: int, day: int) -> Iterator[str]:
    years = [f"{mark}{-year}年" for mark in BEFORE_CHRIST["zh"]] if year < 0 else []
    years += [f"公元{year}年", f"{year}年"] if year > 0 else []
    if not month:
        yield from years[:1] if 0 < year < MARKED_YEARS["zh"] else years
        return
    for word in (str(month), f"{month:02d}", CHINESE_MONTHS[month - 1]):
        days = [f"{day}日", f"{day:02d}日", f"{day}号"] if day else [""]
        yield from (f"{y}{word}月{d}" for y in years or [""] for d in days)
    if year > 0:
        yield f"{year:04d}-{month:02d}" + (f"-{day:02d}" if day else "")


@lru_cache(maxsize=1 << 14)
def numbers(amount: str, language: Language) -> tuple[str, ...]:
    """Spellings of a number: with and without separators, rounded a little, in thousands or millions."""
    try:
        exact = Decimal(amount)
    except InvalidOperation:
        return ()
    found: dict[str, None] = {}
    words = (("万", 10**4), ("亿", 10**8)) if language == "zh" else ((" million", 10**6), (" billion", 10**9))
    with localcontext(prec=MAX_AMOUNT_DIGITS):
        for places in (2, 1, 0):
            value = round(exact, places)
            if value and abs(value - exact) <= MAX_ERROR * abs(exact):
                plain = f"{value:f}"
                plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
                found |= dict.fromkeys((f"{Decimal(plain):,f}", plain))
        for word, size in words:
            scaled = (exact / size).normalize()
            if abs(scaled) >= 1 and round(scaled, 2) == scaled:
                found[f"{scaled:f}{word}"] = None
    return tuple(_longest_first(found))


def renderings(
    value: Value,
    language: Language,
    units: Sequence[str] = (),
    counters: Sequence[str] = (),
    bare_years: bool = False,
) -> Iterator[str]:
    """Spellings of a value, the most telling first.

    Args:
        units: names of its unit.
        counters: words that may follow a number without a unit.
        bare_years: whether an English year alone may be a date.
    """
    if value.kind == "text":
        yield value.data[0]
    elif value.kind == "time":
        yield from dates(*value.data, language=language, bare_years=bare_years)
    else:
        spelled = numbers(value.data[0], language)
        words = units if value.data[1] else counters
        for word in _longest_first(words):
            yield from (f"{number}{gap}{word}" for number in spelled for gap in (" ", "", "-", "\u00a0"))
            if not word[0].isalpha():
                yield from (f"{word}{number}" for number in spelled)  # $5
        if not value.data[1]:
            yield from (
                number for number in spelled if sum(map(str.isdigit, number)) >= MIN_DIGITS or number[-1:].isalpha()
            )


def find_value(text: str, start: int, end: int, spellings: Iterator[str], kind: str) -> tuple[int, int] | None:
    """Where the first spelling that occurs stands in ``text[start:end]``: whole words, numbers and dates only.

    Args:
        kind: of the value, ``time``, ``quantity`` or ``text``.
    """
    goes_on = {"time": _date_goes_on, "quantity": _quantity_goes_on, "text": _number_goes_on}[kind]
    for spelling in filter(None, spellings):
        place = text.find(spelling, start, end)
        while place >= 0:
            stop = place + len(spelling)
            before, after = text[max(0, place - 20) : place], text[stop : stop + 20]
            if bounded(text, place, stop) and not goes_on(before, spelling, after):
                return place, stop
            place = text.find(spelling, place + 1, end)
    return None


def _number_goes_on(before: str, found: str, after: str) -> bool:
    """Whether a number goes on beyond the stretch: 468 in 1,468 or 468.5."""
    return bool(
        (found[0].isdigit() and re.search(r"\d[.,]?$|[-−]$", before))
        or (found[-1].isdigit() and re.match(r"[.,]?\d", after))
    )


_MORE_AMOUNT = re.compile(r"[ \u00a0-]?(?:thousand|million|billion|trillion)\b|[百千万萬亿億]")
_RATE = re.compile(r"/\w| per |每")


def _quantity_goes_on(before: str, found: str, after: str) -> bool:
    """Whether a quantity is part of another: 5 of "5 million", "1万" of "1万5千", "5 m" of "5 m/s"."""
    more = found[-1].isdigit() and _MORE_AMOUNT.match(after)
    more = more or (found[-1] in "万亿" and re.match(r"\d|[一二三四五六七八九]", after))
    return bool(more or _RATE.match(after) or _number_goes_on(before, found, after))


_MONTH_BEFORE = re.compile(rf"\b(?:{'|'.join(name[:3] for name in MONTHS)})[a-z]*\.?(?: \d+(?:st|nd|rd|th)?)?,? $")
_DAY_BEFORE = re.compile(r"(?<!\d)\d{1,2}(?:st|nd|rd|th)? (?:of )?$")
_YEAR_AFTER = re.compile(r",? (?:\d{3,4}(?!\d|,\d)|\d+ (?:BC|B\.C|AD|CE))")
_CHINESE_YEAR_BEFORE = re.compile(r"(?:[\d〇○零一二三四五六七八九十]年|十)$")
_CHINESE_AFTER = re.compile(r"代|(?:\d{1,2}|[一二三四五六七八九十]{1,3})[月日号號]")


def _date_goes_on(before: str, found: str, after: str) -> bool:
    """Whether a date is part of another that is more exact or of another age."""
    if found.endswith(("年", "月", "日", "号")):
        headless = found[0] not in "公西前" and (
            before.endswith("前") or ("年" not in found and _CHINESE_YEAR_BEFORE.search(before))
        )
        return bool(headless or _CHINESE_AFTER.match(after) or _number_goes_on(before, found, after))
    if (found.isdigit() and _MONTH_BEFORE.search(before)) or (found[0].isalpha() and _DAY_BEFORE.search(before)):
        return True
    has_year = re.search(r"\d{3}|BC|B\.C|AD|CE", found)
    follows = re.match(r" (?:BC|B\.C)", after) if has_year else _YEAR_AFTER.match(after)
    return bool(follows) or _number_goes_on(before, found, after)


def _longest_first(spellings: Iterator[str] | Sequence[str] | Mapping[str, None]) -> list[str]:
    return sorted(dict.fromkeys(spellings), key=len, reverse=True)
