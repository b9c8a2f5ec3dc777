"""CoNLL files in the tag schemes that circulate."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.extraction.readers import Rejects, read_samples

WORDS = ["Li", "Wei", "of", "New", "York", "spoke"]
SCHEMES = {
    "BIO": "B-P I-P O B-L I-L O",
    "IOB": "I-P I-P O I-L I-L O",
    "BIOES": "B-P E-P O B-L E-L O",
    "BILOU": "B-P L-P O B-L L-L O",
    "BMES": "B-P E-P O B-L E-L O",
}


def entities(path: Path) -> list[list[tuple[str, str]]]:
    return [[(entity.text, entity.type) for entity in sample.items.entities] for sample in read_samples(path)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("separator", ["\t", " ", " X Y "])
def test_each_scheme_gives_the_same_entities(scheme: str, separator: str, tmp_path: Path) -> None:
    lines = [f"{word}{separator}{tag}" for word, tag in zip(WORDS, SCHEMES[scheme].split(), strict=True)]
    (tmp_path / "a.txt").write_text("-DOCSTART- -X- O\n\n" + "\n".join(lines) + "\n\n", "utf-8")
    (sample,) = read_samples(tmp_path / "a.txt")
    assert sample.text == "Li Wei of New York spoke"
    assert [(e.text, e.type, e.span) for e in sample.items.entities] == [
        ("Li Wei", "P", (0, 6)),
        ("New York", "L", (10, 18)),
    ]


def test_neighbours_are_told_apart_and_single_ones_end_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a S-P\nb S-P\nc B-P\nd B-P\ne U-P\nf I-Q\n", "utf-8")
    assert entities(tmp_path / "a.txt") == [[("a", "P"), ("b", "P"), ("c", "P"), ("d", "P"), ("e", "P"), ("f", "Q")]]


def test_characters_are_joined_without_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.bmes").write_text("刘 B-NAME\n伯 M-NAME\n承 E-NAME\n笑 O\n", "utf-8")
    (sample,) = read_samples(tmp_path / "a.bmes")
    assert sample.text == "刘伯承笑" and entities(tmp_path / "a.bmes") == [[("刘伯承", "NAME")]]


def test_a_hash_sign_is_a_token_and_a_comment_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# id 1\n# O\nLi B-P\n", "utf-8")
    (sample,) = read_samples(tmp_path / "a.txt")
    assert sample.text == "# Li"


def test_a_sentence_with_a_line_without_tag_is_rejected_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a O\n\nb O\nc\nd O\n\ne B-P\n", "utf-8")
    samples = list(read_samples(tmp_path / "a.txt", rejects=(rejects := Rejects())))
    assert [sample.text for sample in samples] == ["a", "e"]
    assert [(row["line"], row["reason"]) for row in rejects.rows] == [(3, "a line without a tag")]


tags = st.lists(st.tuples(st.sampled_from(["B", "I", "O"]), st.sampled_from("PL")), min_size=1, max_size=30)


@given(tags)
def test_entities_are_the_texts_at_their_offsets(
    tmp_path_factory: pytest.TempPathFactory, marks: list[tuple[str, str]]
) -> None:
    file = tmp_path_factory.mktemp("columns") / "a.txt"
    lines = [f"w{n}\t{mark if mark == 'O' else f'{mark}-{kind}'}" for n, (mark, kind) in enumerate(marks)]
    file.write_text("\n".join(lines), "utf-8")
    (sample,) = read_samples(file)
    for entity in sample.items.entities:
        assert entity.span is not None and sample.text[entity.span.start : entity.span.end] == entity.text
    inside = sum(len(entity.text.split()) for entity in sample.items.entities)
    assert inside == sum(mark != "O" for mark, _ in marks)
