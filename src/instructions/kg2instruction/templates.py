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
    **dict.fromkeys(("lang", "langx", "transl", "transliteration", "script", "color", "rtl-lang"), 2),
    **dict.fromkeys(("le", "sic", "nihongo", "vanchor", "ill", "interlanguage link", "internal link helper", "ilh"), 1),
}
SIGNS = {
    **{"'": "'", "'s": "'s", "nbsp": " ", "ndash": "–", "mdash": "—", "mdashb": "—"},
    **dict.fromkeys(("snd", "spaced ndash", "spnd"), " – "),
}
SHIPS = {"uss": "USS", "hms": "HMS", "hmas": "HMAS", "hmcs": "HMCS", "rms": "RMS", "ss": "SS", "sms": "SMS", "mv": "MV"}
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
COMPOSED = {
    *DATES,
    *SHIPS,
    *("ship", "tsl", "bd", "convert", "cvt", "as of", "circa", "c.", "chem", "angbr", "oldstyledate"),
}
RANGES = {"to", "-", "–", "and", "x", "by", "or"}
LESSER_UNITS = {"ft": "in", "mi": "yd", "yd": "ft", "lb": "oz", "st": "lb"}


def template_text(node: Any, language: Language) -> Any:
    """What a template shows: a string, wikicode to read on in, or None for nothing."""
    name = " ".join(str(node.name).replace("_", " ").split()).lower()
    if name in SIGNS:
        return SIGNS[name]
    if name in SHOWN:
        return _argument(node, SHOWN[name])
    if name.startswith(("lang-", "link-")):
        return _argument(node, 1)
    # most templates are sources and boxes, whose arguments need not be looked at
    if name not in COMPOSED:
        return None
    return _composed(name, [p.value.strip_code().strip() for p in node.params if not p.showkey], node, language)


def _composed(name: str, plain: list[str], node: Any, language: Language) -> str | None:
    """The text of a template that puts words of its own around its arguments, or puts them together."""
    if name == "tsl":
        return plain[3] if len(plain) > 3 and plain[3] else (plain[2] if len(plain) > 2 else None)
    if name == "bd":
        return _chinese_lifetime(plain)
    if name in ("convert", "cvt"):
        return _measure(plain)
    if name == "as of":
        date = _date(plain, language)
        word = "截至" if language == "zh" else "as of " if node.has("lc") else "As of "
        return date and word + date
    if name in DATES:
        return _date(plain, language)
    if name in ("chem", "oldstyledate"):
        return "".join(plain) if name == "chem" else " ".join(plain[:2])
    if name == "ship":
        return " ".join(plain[:2])
    if not plain:
        return None
    if name in SHIPS:
        return f"{SHIPS[name]} {plain[0]}"
    return f"⟨{plain[0]}⟩" if name == "angbr" else f"c. {plain[0]}"


def _argument(node: Any, place: int) -> Any:
    return node.get(place).value if node.has(place) else None


def _measure(values: list[str]) -> str | None:
    """``{{convert|828|m|ft}}`` as "828 m", ``{{convert|5|to|6|km}}`` as "5 to 6 km", ``{{convert|6|ft|2|in}}``."""
    if len(values) >= 4 and (values[1] in RANGES or LESSER_UNITS.get(values[1]) == values[3]):
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
