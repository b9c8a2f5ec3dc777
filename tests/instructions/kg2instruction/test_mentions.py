"""Which words of a page name which items."""

from pathlib import Path

import pytest

from src.errors import UserError
from src.instructions.kg2instruction.index import KnowledgeIndex
from src.instructions.kg2instruction.linked_text import LinkedText, Mark
from src.instructions.kg2instruction.mentions import MentionFinder, automaton, bounded, longest
from src.instructions.kg2instruction.wikipedia import Redirects, write_redirects


@pytest.fixture
def redirects(tmp_path: Path) -> Redirects:
    lists = tmp_path / "redirects.jsonl"
    lists.write_text('["Brackwater City", "Brackwater#Centre"]\n["Old Town", "brackwater City"]\n')
    write_redirects([lists], tmp_path / "redirects.sqlite", "en")
    return Redirects(tmp_path / "redirects.sqlite")


def find(finder: MentionFinder, own: int, page: LinkedText) -> dict[str, int]:
    return {page.text[m.start : m.end]: m.item for m in finder.find(own, page)}


def test_redirects_are_followed_to_their_end(index: KnowledgeIndex, redirects: Redirects) -> None:
    assert MentionFinder(index, redirects).item_of("old Town") == 1000003


def test_the_longest_name_is_taken_and_only_whole_words() -> None:
    words = automaton(["Brackwater", "Brackwater Bridge", "Ada"], "en")
    text = "The Brackwater Bridge is no Adamant; Ada likes Brackwater."
    assert [text[start:end] for start, end in longest(words, text)] == ["Brackwater Bridge", "Ada", "Brackwater"]


def test_names_of_chinese_need_no_blank() -> None:
    assert bounded("他在青石镇住", 2, 5) and not bounded("aNorland", 1, 8) and bounded("在Norland住", 1, 8)


def test_links_come_before_names_and_bold_type_names_the_page(index: KnowledgeIndex, redirects: Redirects) -> None:
    page = LinkedText("Big Ada met Marlowe in Norland.", (Mark(0, 7), Mark(12, 19, "Marlowe, Norland")))
    found = find(MentionFinder(index, redirects), 1000001, page)
    assert found == {"Big Ada": 1000001, "Marlowe": 1000005, "Norland": 1000020}


def test_words_of_a_link_that_name_nothing_are_no_mention(index: KnowledgeIndex, redirects: Redirects) -> None:
    page = LinkedText("They landed there, two engineers.", (Mark(5, 11, "Brackwater"),))
    assert find(MentionFinder(index, redirects), 1000001, page) == {"engineers": 81096}


def test_a_part_of_a_longer_known_name_is_no_mention(index: KnowledgeIndex, redirects: Redirects) -> None:
    page = LinkedText("Norland and the Kingdom of Norland. The Lantern House.", ())
    finder = MentionFinder(index, redirects)
    assert find(finder, 1000003, page) == {"Norland": 1000020, "Kingdom of Norland": 1000020}
    # "Lantern" is known, too, but here it belongs to "Lantern House"
    assert finder._goes_on(page.text, 40, 47)


def test_without_a_dictionary_only_links_and_titles_are_found(index: KnowledgeIndex, redirects: Redirects) -> None:
    page = LinkedText("Ada Marlowe of Norland", (Mark(0, 11),))
    assert find(MentionFinder(index, redirects, "none"), 1000001, page) == {"Ada Marlowe": 1000001}


def test_a_dictionary_of_all_names_finds_what_has_no_relation(index: KnowledgeIndex, redirects: Redirects) -> None:
    page = LinkedText("She never was in Africa.", ())
    assert find(MentionFinder(index, redirects, "all"), 1000001, page) == {"Africa": 15}
    assert find(MentionFinder(index, redirects), 1000001, page) == {}


def test_a_recogniser_adds_names(index: KnowledgeIndex, redirects: Redirects) -> None:
    page = LinkedText("She never was in Africa or Atlantis.", ())
    finder = MentionFinder(index, redirects, ner=lambda text: [(17, 23), (27, 35)])
    assert find(finder, 1000001, page) == {"Africa": 15}


def test_an_unknown_dictionary_is_an_error(index: KnowledgeIndex, redirects: Redirects) -> None:
    with pytest.raises(UserError, match="dictionary=some"):
        MentionFinder(index, redirects, "some")  # type: ignore[arg-type]
