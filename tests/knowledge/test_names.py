"""Normalised names: what counts as the same."""

import pytest

from src.errors import UserError
from src.knowledge.names import NameRules, name_key, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＩＢＭ", "ibm"),
        ("《红楼梦》", "红楼梦"),
        ("北京 大学", "北京大学"),
        ("Barack  Obama ", "barack obama"),
        ("巴拉克·奥巴马", "巴拉克奥巴马"),
    ],
)
def test_names_that_writers_vary_have_one_key(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize(("one", "other"), [("北京", "北京市"), ("New York", "NewYork"), ("Apple", "Apple Inc.")])
def test_other_names_have_other_keys(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)


def test_a_name_of_marks_alone_keeps_them() -> None:
    assert name_key("《》") == "《》"


@pytest.mark.parametrize(
    ("one", "other"),
    [("Apple Inc.", "Apple"), ("Siemens AG", "siemens"), ("华为技术有限公司", "华为技术"), ("Foo Co., Ltd.", "Foo")],
)
def test_legal_forms_are_left_out_where_asked_for(one: str, other: str) -> None:
    assert NameRules(legal_forms=True).key(one) == NameRules().key(other)
    assert NameRules().key(one) != NameRules().key(other)


def test_a_name_that_is_a_legal_form_keeps_it() -> None:
    assert NameRules(legal_forms=True).key("有限公司") == "有限公司"


def test_traditional_chinese_is_simplified_where_opencc_is_installed() -> None:
    pytest.importorskip("opencc")
    assert NameRules(simplified=True).key("臺灣大學") == NameRules(simplified=False).key("台湾大学")
    assert NameRules(simplified=False).key("臺灣大學") == "臺灣大學"


def test_simplifying_without_opencc_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opencc", None)
    from src.knowledge import names

    names._converter.cache_clear()
    try:
        with pytest.raises(UserError, match="opencc"):
            NameRules(simplified=True)
        assert NameRules().simplified is False
    finally:
        names._converter.cache_clear()


def test_each_chinese_character_is_a_word_of_the_index() -> None:
    assert words("北京 UniversityＡ") == "北 京 universitya"
