"""Several sets as one folder of records."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.extraction.readers import read_samples
from src.extraction.readers.schemas import read_schema
from src.extraction.training.prepare import Source, prepare


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def people(tmp_path: Path) -> str:
    rows = [
        {
            "text": f"Ann{n} lives in Oslo.",
            "entity": [{"entity": f"Ann{n}", "entity_type": "Peop"}, {"entity": "Oslo", "entity_type": "Loc"}],
            "relation": [
                {"head": f"Ann{n}", "relation": "Live_In", "tail": "Oslo", "head_type": "Peop", "tail_type": "Loc"}
            ],
        }
        for n in range(100)
    ]
    return write(tmp_path / "people.jsonl", rows)


def source(path: str, **more: Any) -> Source:
    return Source(**{"path": path, "task": "ner", "schema": "conll04", "split_num": -1} | more)


def test_two_tasks_of_one_file_make_one_training_file_and_hold_out_the_same_texts(people: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    manifest = prepare([source(people), source(people, task="re")], folder, validation_fraction=0.2)
    records = read(folder / "train.jsonl")
    texts = {
        task: {json.loads(r["instruction"])["input"] for r in records if r["task"] == task} for task in ("NER", "RE")
    }
    held_out = [
        {s.text for s in read_samples(folder / "validation" / f"people_{task}.jsonl")} for task in ("ner", "re")
    ]
    assert texts["NER"] == texts["RE"] and held_out[0] == held_out[1]
    assert not texts["NER"] & held_out[0] and len(texts["NER"]) + len(held_out[0]) == 100
    assert len(read(folder / "validation.jsonl")) == manifest["validation_records"] == 2 * len(held_out[0])
    assert manifest["training_records"] == len(records)


def test_held_out_texts_of_one_input_are_in_no_training_part(people: str, tmp_path: Path) -> None:
    rows = read(Path(people))
    dev = write(tmp_path / "dev.jsonl", rows[:10])
    manifest = prepare([source(people, validation=dev), source(people, task="re")], tmp_path / "out", 0.0)
    assert [one["train"]["samples"] for one in manifest["inputs"].values()] == [90, 90]
    assert manifest["inputs"]["people_ner"]["training_texts_in_validation"] == 10


def test_readable_names_are_in_records_samples_and_schema(people: str, tmp_path: Path) -> None:
    prepare([source(people, task="re", readable=True)], tmp_path / "out", 0.2)
    record = read(tmp_path / "out" / "train.jsonl")[0]
    assert "lives in" in json.loads(record["instruction"])["schema"] and '"lives in": [{"subject"' in record["output"]
    sample = next(read_samples(tmp_path / "out" / "validation" / "people_re.jsonl"))
    relation = sample.items.relations[0]
    assert (relation.relation, relation.head_type, relation.tail_type) == ("lives in", "person", "location")
    schema = read_schema(tmp_path / "out" / "schemas" / "people_re.yaml")
    assert "lives in" in [each.name for each in schema.relations]


def test_limits_and_repeats_are_kept(people: str, tmp_path: Path) -> None:
    manifest = prepare([source(people, limit=30, repeat=3, validation_limit=5)], tmp_path / "out", 0.2)
    counts = manifest["inputs"]["people_ner"]
    assert (counts["train"]["samples"], counts["train"]["records"]) == (30, 90)
    assert counts["validation"]["samples"] == 5
    orders = {tuple(json.loads(r["instruction"])["schema"]) for r in read(tmp_path / "out" / "train.jsonl")}
    assert len(orders) > 5


def test_general_records_are_mixed_in_by_their_share(people: str, tmp_path: Path) -> None:
    general = write(tmp_path / "general.jsonl", [{"instruction": f"Say {n}.", "output": f"{n}"} for n in range(60)])
    manifest = prepare([source(people)], tmp_path / "out", 0.0, general, 0.2)
    records = read(tmp_path / "out" / "train.jsonl")
    assert manifest["general_records"] == 25 and len(records) == 125
    assert len({record["instruction"] for record in records[100:]}) == 25


def test_too_few_general_records_are_all_taken_and_said(
    people: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    general = write(tmp_path / "general.jsonl", [{"instruction": "Say 1.", "output": "1"}])
    assert prepare([source(people)], tmp_path / "out", 0.0, general, 0.5)["general_records"] == 1
    assert "general_share=0.50 wants 100 records, found 1" in caplog.text


def test_a_bad_general_record_is_named(people: str, tmp_path: Path) -> None:
    general = write(tmp_path / "general.jsonl", [{"instruction": "Say 1.", "output": "1"}, {"prompt": "x"}])
    with pytest.raises(UserError, match=r"general.jsonl, line 2: "):
        prepare([source(people)], tmp_path / "out", 0.0, general)


def test_rejected_rows_are_kept_with_file_line_and_reason(tmp_path: Path) -> None:
    good = {"text": "Oslo", "entity": [{"entity": "Oslo", "entity_type": "Loc"}]}
    shifted = {"text": "Oslo", "entity": [{"entity": "Oslo", "entity_type": "Loc", "start": 1, "end": 5}]}
    file = write(tmp_path / "set.jsonl", [good, {"text": ""}, good, shifted])
    manifest = prepare([source(file)], tmp_path / "out", 0.0)
    assert manifest["rejected_rows"] == {"no text": 1, "wrong offsets": 1}
    rejects = read(tmp_path / "out" / "rejects.jsonl")
    assert [(one["file"], one["line"], one["reason"]) for one in rejects] == [
        ("set.jsonl", 2, "no text"),
        ("set.jsonl", 4, "wrong offsets"),
    ]


def test_the_same_call_writes_the_same_bytes(people: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare([source(people, negatives="hard", split_num=2)], tmp_path / name, 0.1)
    files = [sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("a", "b")]
    assert len(files[0]) == 6
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_a_failed_call_leaves_an_earlier_folder_as_it_was(people: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    prepare([source(people)], folder, 0.0)
    before = (folder / "train.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"out exists: give another output, or overwrite=true"):
        prepare([source(people)], folder, 0.0)
    with pytest.raises(UserError, match="no training record is left"):
        prepare([source(people, limit=0)], folder, 0.0, overwrite=True)
    assert (folder / "train.jsonl").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()].count("out") == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_an_instructie_file_is_asked_by_topic(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"Person": [["h_spouse_h"], ["spouse"]], "Event": [["e_date_t"], ["date"]]}), "utf-8")
    rows = [
        {
            "id": "1",
            "cate": "Person",
            "text": "Ann and Bob",
            "relation": [{"head": "Ann", "relation": "spouse", "tail": "Bob"}],
        },
        {"id": "2", "cate": "Event", "text": "In May", "relation": []},
    ]
    file = write(tmp_path / "set.jsonl", rows)
    prepare([source(file, task="re", schema=str(schema), language="en")], tmp_path / "out", 0.0)
    asked = [json.loads(record["instruction"])["schema"] for record in read(tmp_path / "out" / "train.jsonl")]
    assert asked == [["spouse"], ["date"]]
    assert sorted(path.name for path in (tmp_path / "out" / "schemas").iterdir()) == [
        "set_re_Event.yaml",
        "set_re_Person.yaml",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": "a.jsonl", "tsk": "ner"}, "the setting tsk, which is not known"),
        ("a.jsonl", "input a.jsonl has no task"),
        ({"path": "a.jsonl", "task": "ner"}, "input a.jsonl has no schema"),
        ({"path": "a.jsonl", "split_num": "six"}, "split_num=six can't be: give a whole number or null"),
        (7, "input 7 is neither a file nor an object"),
    ],
)
def test_an_input_that_can_not_be_is_said(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Source.of(given, {"seed": 1})


def test_labels_of_another_schema_are_refused(people: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"people_ner holds \(Peop, Loc, …\) is in its schema"):
        prepare([source(people, schema="cluener")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_of_files_and_sets_may_hold_any_letter(people: str, tmp_path: Path) -> None:
    odd = tmp_path / "{x}[b].jsonl"
    odd.write_bytes(Path(people).read_bytes())
    prepare([source(str(odd)), source(people, name="a/b")], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "schemas").iterdir()) == ["a-b_ner.yaml", "{x}[b]_ner.yaml"]


def test_an_inputs_own_settings_go_before_those_for_all() -> None:
    defaults = {"task": "ner", "schema": "cluener", "split_num": 4, "output": "x"}
    assert Source.of("a.jsonl", defaults).split_num == 4
    assert Source.of({"path": "a.jsonl", "split_num": 2}, defaults).split_num == 2


def test_shares_and_empty_lists_are_checked(people: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="validation_fraction=1"):
        prepare([source(people)], tmp_path / "out", 1)
    with pytest.raises(UserError, match="there is nothing to convert"):
        prepare([], tmp_path / "out")
