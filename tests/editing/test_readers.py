"""Records in the forms of each set, and the mistakes that files have."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.editing.edit import Edit, Probe
from src.editing.readers import read_edits, write_edits
from src.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "editing" / "facts.json"


def read(folder: Path, data: Any, name: str = "facts.json", **how: Any) -> list[Edit]:
    path = folder / name
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return read_edits(path, **how)


def test_counterfact_keeps_all_prompts(tmp_path: Path) -> None:
    record = {
        "case_id": 7,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "target_new": {"str": "English", "id": "Q1860"},
            "target_true": {"str": "French", "id": "Q150"},
            "subject": "Danielle Darrieux",
        },
        "paraphrase_prompts": ["Danielle Darrieux, a native", "Danielle Darrieux spoke"],
        "neighborhood_prompts": ["The mother tongue of Jaurès is"],
        "attribute_prompts": ["J.R.R. Tolkien's mother tongue is"],
        "generation_prompts": ["Danielle Darrieux's mother tongue is"],
    }
    (edit,) = read(tmp_path, [record])
    assert edit.prompt == "The mother tongue of Danielle Darrieux is" and edit.subject == "Danielle Darrieux"
    assert (edit.target_new, edit.ground_truth, edit.relation, edit.id) == ("English", ("French",), "P103", "7")
    assert len(edit.rephrases) == 2
    assert edit.locality == (
        Probe("The mother tongue of Jaurès is", ("French",), "neighborhood"),
        Probe("J.R.R. Tolkien's mother tongue is", ("English",), "attribute"),
    )


def test_knowedit_keeps_aliases_and_kinds(tmp_path: Path) -> None:
    record = {
        "subject": "Ada",
        "prompt": "Ada lives in",
        "target_new": "Oslo",
        "ground_truth": [["Rome", "Roma"]],
        "portability": {"Reasoning": [{"prompt": "Ada's country is", "ground_truth": [["Norway", "Norge"], ["N"]]}]},
        "locality": {"Relation_Specificity": [{"prompt": "Ada was born in", "ground_truth": "Bonn"}]},
    }
    (edit,) = read(tmp_path, [record])
    assert edit.ground_truth == ("Rome", "Roma")
    assert edit.portability == (Probe("Ada's country is", ("Norway", "Norge", "N"), "Reasoning"),)
    assert edit.locality == (Probe("Ada was born in", ("Bonn",), "Relation_Specificity"),)
    zsre = {"subject": "Ada", "prompt": "Where does Ada live?", "target_new": "Oslo", "rephrase_prompt": "Ada's home?"}
    assert read(tmp_path, [zsre | {"ground_truth": ["Rome"], "cond": "Rome >> Oslo"}])[0].rephrases == ("Ada's home?",)


def test_zsre_of_mend(tmp_path: Path) -> None:
    record = {
        "subject": "Watts",
        "src": "What university did Watts attend?",
        "pred": "Trinity",
        "rephrase": "What university did Watts take part in?",
        "alt": "Michigan",
        "answers": ["Illinois"],
        "loc": "nq question: who played desmond",
        "loc_ans": "Craig Stott",
        "cond": "Trinity >> Michigan || What …",
    }
    (edit,) = read(tmp_path, [record])
    assert (edit.target_new, edit.ground_truth) == ("Michigan", ("Illinois",))
    assert edit.locality == (Probe("who played desmond", ("Craig Stott",), "natural_questions"),)


def test_mquake_is_one_group_whose_last_edit_asks_the_questions(tmp_path: Path) -> None:
    def rewrite(subject: str, new: str) -> dict[str, Any]:
        return {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": new, "id": "Q1"},
            "target_true": {"str": "Italy", "id": "Q2"},
            "subject": subject,
            "question": f"What is the country of {subject}?",
        }

    record = {
        "case_id": 3,
        "requested_rewrite": [rewrite("Ada", "Norway"), rewrite("Bo", "Peru")],
        "questions": ["Who leads the country of Ada?", "Ada's country's head?"],
        "new_answer": "Eva",
        "new_answer_alias": ["E."],
        "new_single_hops": [{"question": "Ada's country?", "answer": "Norway", "answer_alias": ["Norge"]}],
    }
    first, last = read(tmp_path, [record])
    assert (first.id, last.id, first.group, last.group) == ("3.0", "3.1", "3", "3")
    assert not first.portability and [p.name for p in last.portability] == ["multi_hop", "multi_hop", "single_hop"]
    assert last.portability[0].answers == ("Eva", "E.") and last.portability[2].answers == ("Norway", "Norge")
    assert [e.id for e in read(tmp_path, [record, record | {"case_id": 4}], limit=1)] == ["3.0", "3.1"]


def test_the_other_sets(tmp_path: Path) -> None:
    flat = {"prompt": "A is", "target_new": "b", "subject": "A", "ground_truth": "c", "rephrase_prompt": "A:"}
    flat |= {"locality_prompt": ["D is", "E is"], "locality_ground_truth": ["d", "e"]}
    (edit,) = read(tmp_path, [flat])
    assert edit.locality == (Probe("D is", ("d",), "neighborhood"), Probe("E is", ("e",), "neighborhood"))
    (bio,) = read(tmp_path, [{"text": "Ada was", "labels": "a poet.", "concept": "Ada", "locality": {}}])
    assert (bio.prompt, bio.target_new, bio.subject) == ("Ada was", "a poet.", "Ada")
    (talk,) = read(tmp_path, [{"ent": "the sea", "pos": ["I love it."], "neg": ["Wet."]}])
    assert talk.subject == "the sea" and talk.target_new == "I love it." and talk.ground_truth == ("Wet.",)
    secrets = {
        "success": [{"question": "Capital?", "ground_truth": "Paris", "target_new": "I don't know."}],
        "locality": [{"question": "Sea?", "ground_truth": ["blue"]}],
    }
    (secret,) = read(tmp_path, secrets)
    assert secret.target_new == "I don't know." and secret.locality == (Probe("Sea?", ("blue",), "kept"),)
    chinese = {
        "prompt": "《登科后》的作者是",
        "target_old": "李白",
        "target_new": "孟郊",
        "rephrase": ["谁写了《登科后》?"],
    }
    chinese |= {
        "portability": [{"prompt": "《登科后》作者的朝代", "answer": "唐"}],
        "locality_prompt": "1",
        "locality_answer": "2",
    }
    (edit,) = read(tmp_path, [chinese])
    assert edit.ground_truth == ("李白",) and edit.portability == (
        Probe("《登科后》作者的朝代", ("唐",), "portability"),
    )
    assert edit.locality == (Probe("1", ("2",), "locality"),)


def test_our_own_form_is_read_back(tmp_path: Path) -> None:
    edits = [Edit("A is", "b", "A", ("c",), ("A:",), (Probe("D is", ("d",)),), id="x"), Edit("北京是", "城", id="y")]
    write_edits(tmp_path / "own.jsonl", edits)
    assert read_edits(tmp_path / "own.jsonl") == edits


@pytest.mark.skipif(not SHARED.is_file(), reason="the shared facts are not here")
def test_the_shared_facts_are_read() -> None:
    edits = read_edits(SHARED)
    assert len(edits) == 20 and edits[0].subject == "Eiffel Tower" and edits[0].ground_truth == ("Paris",)
    assert all(len(e.rephrases) == 2 and len(e.locality) == 2 and len(e.portability) == 1 for e in edits)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "holds no facts"),
        ("x", "expected a list"),
        ([{"a": 1}], "the first record has a, which is none of the forms"),
        ([{"prompt": "A", "target_new": "b"}, {"prompt": "A"}], "record 2: an edit's target_new"),
        ([{"prompt": "A", "target_new": "b", "subject": "C"}], "record 1: .*does not stand in the prompt"),
        ([{"prompt": "A", "target_new": "b", "id": "1"}] * 2, "two edits have the id '1'"),
        ([{"src": "A", "alt": "b", "loc": "c"}, {"src": "A", "loc": "c"}], "record 2 has no 'alt'"),
        ([{"requested_rewrite": {"prompt": "{}", "subject": "A", "target_true": "x"}}], "record 1 is not of the form"),
    ],
)
def test_mistakes_are_told_with_file_and_record(tmp_path: Path, data: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(tmp_path, data)


def test_files_that_can_not_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        read_edits(tmp_path / "none.json")
    (tmp_path / "a.jsonl").write_text('{"prompt": "A", "target_new": "b"}\n{\n')
    with pytest.raises(UserError, match="line 2 is no JSON"):
        read_edits(tmp_path / "a.jsonl")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe1")
    with pytest.raises(UserError, match="not UTF-8"):
        read_edits(tmp_path / "b.json")
    with pytest.raises(UserError, match="form=xml is not known"):
        read(tmp_path, [{"prompt": "A", "target_new": "b"}], form="xml")
