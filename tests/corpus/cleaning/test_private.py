"""What tells who somebody is is masked; numbers that only look like it are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.cleaning.private import KINDS, MaskPrivate
from src.errors import UserError

ALL = {kind: f"<{kind.upper()}>" for kind in KINDS}
IDENTITY = "11010519491231002X"  # the example of GB 11643
CARD = "4111111111111111"  # the payment industry's test number


def masked(text: str, **placeholders: str) -> str:
    result = MaskPrivate(placeholders or ALL).apply(text)
    assert isinstance(result, str)
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("写信到zhang.san@qq.com，谢谢", "写信到<EMAIL>，谢谢"),
        ("<Joe_1+x@mail.foo.co.uk>, a@b.org.", "<<EMAIL>>, <EMAIL>."),
        (f"身份证{IDENTITY}。", "身份证<IDENTITY_NUMBER>。"),
        (IDENTITY.lower(), "<IDENTITY_NUMBER>"),
        ("电话：13812345678，", "电话：<MOBILE>，"),
        ("138-1234-5678 或 +86 13912345678", "<MOBILE> 或 <MOBILE>"),
        ("call +1 415 555 2671 or +44 (20) 7946 0958.", "call <PHONE> or <PHONE>."),
        ("Tel. +4930123456789", "Tel. <PHONE>"),
        (f"卡号 {CARD}；4111 1111 1111 1111", "卡号 <CARD>；<CARD>"),
        ("from 8.8.8.8 port 53", "from <IPV4> port 53"),
    ],
)
def test_private_data_is_replaced(text, expected):
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4-beta, v10.20.30.40, 192.168.0.1, 127.0.0.1, 0.0.0.0, 300.1.2.3",
        "git clone git@github.com:user/repo.git; user@example.com; icon@2x.png; name@1.2.3; getty@tty1.service",
        "@decorator.com\ndef f(): y = A@B.T; x@w.to(device); a @ b.c",
        "ISBN 978-7-04-012345-6, ISBN 9787040123456, 2024-01-15 12:30:45, 20240115123045",
        "3.14159265358979, 0x13812345678, a13812345678, 138123456789, 1381234567, id=13812345678, 0.13812345678",
        "110105194912310021, 110105194913310020, 11010519491231002X1",  # wrong check digit, wrong month, longer
        "4111111111111112, 1111111111111111",
        "+1 2 3, a+12345678901, 1+4930123456789, +3.14159265, UTC+08:00, +10000000",
    ],
)
def test_what_only_looks_like_private_data_stays_as_the_same_object(text):
    assert MaskPrivate(ALL).apply(text) is text


def test_kinds_are_counted_and_null_ones_stay():
    step = MaskPrivate({"email": "<E>", "mobile": None})
    assert step.apply("a@b.com c@d.cn 13812345678") == "<E> <E> 13812345678"
    assert step.report.counters == {"email": 2}


def test_the_standard_masks_only_e_mails_in_code(standard_steps):
    step = standard_steps("code")["private"]
    assert step.apply("PRIME = 13812345678  # joe@mail.org") == "PRIME = 13812345678  # <EMAIL>"


PIECES = st.sampled_from(
    [
        "a@b.com",
        "@",
        ".com",
        "x",
        IDENTITY,
        "13812345678",
        "+86",
        "+1 415 555 2671",
        CARD,
        "8.8.8.8",
        ".",
        "-",
        " ",
        "1",
        "，",
    ]
)


@given(st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(st.characters(codec=None, exclude_categories=()))))
def test_nothing_is_left_that_would_be_masked_again(text):
    once = masked(text)
    assert MaskPrivate(ALL).apply(once) is once


@given(st.lists(PIECES, max_size=12).map("".join))
def test_placeholders_that_look_like_words_leave_nothing_either(text):
    plain = dict.fromkeys(KINDS, "X")
    once = masked(text, **plain)
    assert MaskPrivate(plain).apply(once) is once


@pytest.mark.parametrize("placeholder", ["me@x.org", "number 1", "+"])
def test_a_placeholder_that_could_be_masked_is_refused(placeholder):
    with pytest.raises(UserError, match="placeholder"):
        MaskPrivate({"email": placeholder})


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="fax"):
        MaskPrivate({"fax": "<FAX>"})
