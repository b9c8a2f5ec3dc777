"""Private data replaced by placeholders: e-mail addresses, identity numbers, telephone numbers, cards, IP addresses.

Better to miss one than to damage a text: each kind must look like one from its first to its last character, with what
checks it has (a known top-level domain, a real date, a check digit), and must not lie inside a longer number or word.
A cheap look comes first, for '@' or for enough digits, so most texts cost next to nothing.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date

from src.corpus.steps import CleaningStep, Drop
from src.errors import UserError

# A pattern that begins with a fixed letter is searched for many times faster than one that begins with a condition.
_NOT_AFTER = r"(?<![0-9A-Za-z_.+\-/#=%&])"
_NOT_BEFORE = r"(?![0-9A-Za-z_]|[.\-][0-9A-Za-z])"

_LOCAL = re.compile(r"[A-Za-z0-9_%+](?:[A-Za-z0-9._%+-]*[A-Za-z0-9_%+-])?\Z")
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9_@(\[]|[.-][A-Za-z0-9])"
)
_LOCAL_REACH = 64  # characters before the '@', RFC 5321
_IDENTITY = re.compile(r"(?<![0-9A-Za-z_])[1-9][0-9]{5}(?:19|20)[0-9]{9}[0-9Xx](?![0-9A-Za-z_])")
_MOBILE = re.compile(
    _NOT_AFTER + r"(?:(?:\+|00)86[ -]?)?1[3-9][0-9](?:[0-9]{8}|-[0-9]{4}-[0-9]{4}| [0-9]{4} [0-9]{4})" + _NOT_BEFORE
)
_PHONE = re.compile(
    r"\+(?<![0-9A-Za-z_.+\-/#=%&)]\+)[1-9][0-9]{0,2}(?:[0-9]{9,12}|(?:[ -]?\([0-9]{1,4}\))?(?:[ -][0-9]{2,5}){2,5})"
    + _NOT_BEFORE
)
_CARD = re.compile(_NOT_AFTER + r"[3-6][0-9]{3}(?:[0-9]{11,15}|(?: [0-9]{4}){3}|(?:-[0-9]{4}){3})" + _NOT_BEFORE)
_IPV4 = re.compile(_NOT_AFTER + r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}" + _NOT_BEFORE)

_MAYBE_MOBILE = re.compile(r"1[3-9][0-9](?:[0-9]{8}|[ -][0-9]{4})")
_MAYBE_CARD = re.compile(r"[1-9][0-9]{3}[0-9 -][0-9]{4}[0-9 -][0-9]{4}")

_BIRTHS = tuple(re.compile(century + r"[0-9]{2}[01][0-9][0-3][0-9]{4}[0-9Xx]") for century in ("19", "20"))

_RISKY = re.compile(r"[@+]|(?<![A-Za-z])[0-9]|[0-9](?![A-Za-z>\])}])")  # could become part of a number or an address

_PUBLIC = frozenset(("git", "svn", "hg", "ssh"))  # user names of services, as in git@github.com:...
_EXAMPLES = re.compile(r"(?:^|\.)(?:example\.(?:com|net|org|edu)|[a-z0-9-]+\.(?:example|test|invalid|localhost))$")
_DOMAINS = frozenset(  # country codes of ISO 3166 and the common generic ones
    re.findall(
        "[a-z]+",
        """
        com net org edu gov mil int info biz name pro aero asia cat coop jobs mobi museum post tel travel xyz top site
        online tech store shop club vip wang work email cloud app dev blog live world today life news group company ltd
        studio page ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw
        by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk
        fm fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is
        it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn
        mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt
        pw py qa re ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk
        tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw
        """,
    )
)
_IDENTITY_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643


def is_email(found: str) -> bool:
    """Whether an address is somebody's: under a known domain, no documentation's example, no service's user."""
    local, _, domain = found.lower().partition("@")
    known = domain.rpartition(".")[2] in _DOMAINS
    return known and local not in _PUBLIC and ".." not in local and not _EXAMPLES.search(domain)


def is_identity_number(found: str) -> bool:
    """Whether a Chinese identity number has a real date of birth and the right check digit (GB 11643)."""
    try:
        date(int(found[6:10]), int(found[10:12]), int(found[12:14]))
    except ValueError:
        return False
    rest = sum(int(digit) * weight for digit, weight in zip(found, _IDENTITY_WEIGHTS, strict=False)) % 11
    return "10X98765432"[rest] == found[17].upper()


def is_phone(found: str) -> bool:
    """Whether an international number is as long as one can be (ITU-T E.164)."""
    return 8 <= sum(character.isdigit() for character in found) <= 15


def is_card(found: str) -> bool:
    """Whether a card number has the right check digit (Luhn, ISO/IEC 7812)."""
    digits = [int(character) for character in found if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_address(found: str) -> bool:
    """Whether an IPv4 address is one of the public Internet, not a private or reserved one."""
    try:
        return ipaddress.IPv4Address(found).is_global
    except ValueError:
        return False


@dataclass(frozen=True)
class Kind:
    """A kind of private data: a cheap look at the text, then where it may stand, then whether it is one."""

    looks: Callable[[str], object]
    spans: Callable[[str], Iterator[tuple[int, int]]]
    is_one: Callable[[str], bool] = bool


def _email_spans(text: str) -> Iterator[tuple[int, int]]:
    at = text.find("@")
    behind = 0
    while at >= 0:
        local = _LOCAL.search(text[max(behind, at - _LOCAL_REACH) : at])
        domain = _DOMAIN.match(text, at + 1) if local else None
        if local and domain:
            yield at - len(local[0]), domain.end()
            behind = domain.end()
        at = text.find("@", at + 1)


def _may_hold_identity(text: str) -> bool:
    return any(birth.search(text) for birth in _BIRTHS)


def _spans(pattern: re.Pattern[str]) -> Callable[[str], Iterator[tuple[int, int]]]:
    return lambda text: (match.span() for match in pattern.finditer(text))


KINDS = {
    "email": Kind(lambda text: "@" in text, _email_spans, is_email),
    "identity_number": Kind(_may_hold_identity, _spans(_IDENTITY), is_identity_number),
    "card": Kind(_MAYBE_CARD.search, _spans(_CARD), is_card),
    "mobile": Kind(_MAYBE_MOBILE.search, _spans(_MOBILE)),
    "phone": Kind(lambda text: "+" in text, _spans(_PHONE), is_phone),
    "ipv4": Kind(lambda text: text.count(".") > 2, _spans(_IPV4), is_address),
}


class MaskPrivate(CleaningStep):
    """Replaces private data and counts it by kind. Nothing in the result is taken for private data again.

    Args:
        placeholders: what each kind is replaced by; a kind that is missing or null stays. The kinds are ``email``,
            ``identity_number`` (Chinese, 18 digits), ``mobile`` (mainland China), ``phone`` (international, with +),
            ``card`` and ``ipv4``.

    Raises:
        UserError: an unknown kind, or a placeholder that could itself be taken for one.
    """

    name = "private"

    def __init__(self, placeholders: Mapping[str, str | None]) -> None:
        super().__init__()
        for kind, placeholder in placeholders.items():
            if kind not in KINDS:
                raise UserError(f"MaskPrivate knows no {kind!r}: it knows {', '.join(KINDS)}")
            if placeholder is not None and _RISKY.search(placeholder):
                raise UserError(
                    f"the placeholder {placeholder!r} of {kind} must hold no '@' or '+', and digits only in words"
                )
        self.placeholders = {kind: text for kind in KINDS if (text := placeholders.get(kind)) is not None}

    def apply(self, text: str) -> str | Drop:
        while True:  # a placeholder may be the border that the next one lacked
            before = text
            for kind, placeholder in self.placeholders.items():
                if KINDS[kind].looks(text):
                    text = self._masked(text, kind, placeholder)
            if text is before:
                return text

    def _masked(self, text: str, kind: str, placeholder: str) -> str:
        pieces: list[str] = []
        behind = 0
        for start, end in KINDS[kind].spans(text):
            if KINDS[kind].is_one(text[start:end]):
                pieces += [text[behind:start], placeholder]
                behind = end
        if not pieces:
            return text
        self.count(kind, len(pieces) // 2)
        return "".join([*pieces, text[behind:]])
