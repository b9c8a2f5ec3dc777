"""The few templates whose text belongs to the sentence: foreign names, measures, dates, and Chinese links."""

from typing import Any

from src.instructions.kg2instruction.vocabulary import Language

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DATES = {
    *("birth date", "birth date and age", "death date", "death date and age", "start date", "end date", "bda", "dob"),
    *(
        "start date and age",
        "date",
        "birth-date",
        "death-date",
        "film date",
        "birth year and age",
        "start and end dates",
    ),
}
SHOWN = {  # template to the argument that is the text
    **dict.fromkeys(("nowrap", "nobr", "small", "big", "smaller", "em", "strong", "abbr", "nobold", "noitalic"), 1),
    **dict.fromkeys(("lang", "transl", "transliteration", "script", "color"), 2),
    **dict.fromkeys(("le", "sic"), 1),
}
# Units of {{convert}} as they are written out; others are left as they are given.
UNITS = {
    "sqmi": "sq mi",
    "sqkm": "km2",
    "sqm": "m2",
    "sqft": "sq ft",
    "cuft": "cu ft",
    "C": "°C",
    "F": "°F",
}
RANGES = {"to", "-", "–", "and", "x", "by", "or"}


def template_text(node: Any, language: Language) -> Any:
    """What a template shows: a string, wikicode to read on in, or None for nothing."""
    name = " ".join(str(node.name).replace("_", " ").split()).lower()
    plain = [p.value.strip_code().strip() for p in node.params if not p.showkey]
    if name.startswith("link-") or name in ("internal link helper", "ilh"):
        return plain[0] if plain else None
    if name == "tsl":
        return plain[3] if len(plain) > 3 and plain[3] else (plain[2] if len(plain) > 2 else None)
    if name.startswith("lang-"):
        return _argument(node, 1)
    if name == "bd":
        return _chinese_lifetime(plain)
    if name in ("convert", "cvt"):
        return _measure(plain)
    if name in DATES:
        return _date(plain, language)
    if name in SHOWN:
        return _argument(node, SHOWN[name])
    return None


def _argument(node: Any, place: int) -> Any:
    return node.get(place).value if node.has(place) else None


def _measure(values: list[str]) -> str | None:
    """``{{convert|828|m|ft}}`` as "828 m", ``{{convert|5|to|6|km}}`` as "5 to 6 km"."""
    if len(values) >= 4 and values[1] in RANGES:
        return f"{values[0]} {values[1]} {values[2]} {UNITS.get(values[3], values[3])}"
    return f"{values[0]} {UNITS.get(values[1], values[1])}" if len(values) >= 2 else None


def _date(values: list[str], language: Language) -> str | None:
    """The date as a text would have it; numbers only, or already in words."""
    numbers = [int(value) for value in values if value.isdecimal()]
    if not numbers:
        return values[0] if values else None
    year, month, day = (*numbers[:3], 0, 0)[:3]
    if not 1 <= month <= 12:
        month = 0
    if language == "zh":
        return f"{year}年" + (f"{month}月" if month else "") + (f"{day}日" if month and day else "")
    if not month:
        return str(year)
    return f"{MONTHS[month - 1]} {day}, {year}" if day else f"{MONTHS[month - 1]} {year}"


def _chinese_lifetime(values: list[str]) -> str | None:
    """``{{bd|1881年|9月25日|1936年|10月19日}}`` as "（1881年9月25日—1936年10月19日）"."""
    born, died = ("".join(values[start : start + 2]) for start in (0, 2))
    if not born:
        return None
    return f"（{born}—{died}）" if died else f"（{born}—）"
