"""Edits out of files: KnowEdit's six sets, CounterFact, zsRE, MQuAKE, CKnowEdit, and our own form.

Which form a file has is found out from its first record. Nothing is dropped: aliases of answers, every paraphrase and
every kind of probe are kept. Formats as EasyEdit's examples, ROME's, MEND's and MQuAKE's releases have them
(arXiv 2401.01286, 2202.05262, 2110.11309, 2305.14795; CKnowEdit 2409.05806).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from src.editing.edit import Edit, Probe, texts
from src.errors import UserError

Record = Mapping[str, Any]
SENTIMENTS = {"pos": "What do you feel good about when you think of {}?", "neg": "What do you dislike about {}?"}
SECRET = "I don't know."


def read_edits(path: str | Path, form: str = "auto", limit: int | None = None) -> list[Edit]:
    """The edits of a ``.json`` or ``.jsonl`` file, with ids that are unique.

    Args:
        form: a name in `FORMS`, or auto.
        limit: of edits; those of one group stay together.

    Raises:
        UserError: with the file and the number of the record, what is missing or wrong in it.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {file}: give a .json or .jsonl file of facts")
    records = _records(file)
    if not records:
        raise UserError(f"{file} holds no facts")
    chosen = form_of(records[0]) if form == "auto" else form
    if chosen is None:
        keys = ", ".join(sorted(records[0])[:8]) if isinstance(records[0], Mapping) else repr(records[0])[:80]
        raise UserError(f"{file}: the first record has {keys}, which is none of the forms {', '.join(FORMS)}")
    if chosen not in FORMS:
        raise UserError(f"form={form} is not known: choose one of auto, {', '.join(FORMS)}")
    edits: list[Edit] = []
    for number, record in enumerate(records, 1):
        try:
            found = list(FORMS[chosen][1](record))
        except UserError as error:
            raise UserError(f"{file}, record {number}: {error}") from error
        except KeyError as error:
            raise UserError(f"{file}, record {number} has no {error.args[0]!r}, which the form {chosen} has") from error
        except (TypeError, AttributeError, ValueError, IndexError) as error:
            raise UserError(f"{file}, record {number} is not of the form {chosen} ({error})") from error
        edits += (_named(each, f"{number}" if len(found) == 1 else f"{number}.{n}") for n, each in enumerate(found))
        if limit is not None and len(edits) >= limit:
            break
    _check_ids(file, edits)
    return edits


def form_of(record: Any) -> str | None:
    """The form of a record by its keys, None for none of them."""
    if not isinstance(record, Mapping):
        return None
    return next((name for name, (is_one, _) in FORMS.items() if is_one(record)), None)


def write_edits(path: str | Path, edits: list[Edit]) -> None:
    """Write edits in our own form, one a line."""
    lines = (json.dumps(edit.as_dict(), ensure_ascii=False) + "\n" for edit in edits)
    Path(path).write_text("".join(lines), encoding="utf-8")


def _records(file: Path) -> list[Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error.reason}): convert it, with iconv for instance") from error
    if file.suffix.lower() == ".jsonl":
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    found.append(json.loads(line))
                except ValueError as error:
                    raise UserError(f"{file}, line {number} is no JSON ({error})") from error
        return found
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error})") from error
    if isinstance(data, Mapping):
        pairs = _sanitation(data)
        return pairs if pairs is not None else [data]
    if not isinstance(data, list):
        raise UserError(f"{file} holds {data!r:.80}: expected a list of facts")
    return data


def _named(edit: Edit, name: str) -> Edit:
    return edit if edit.id else Edit(**{**vars(edit), "id": name})


def _check_ids(file: Path, edits: list[Edit]) -> None:
    seen: set[str] = set()
    for edit in edits:
        if edit.id in seen:
            raise UserError(f"{file}: two edits have the id '{edit.id}': give each its own")
        seen.add(edit.id)


def _text(value: Any, what: str) -> str:
    """A text, or the first of a list of them."""
    found = texts(value, what)
    if not found:
        raise UserError(f"{what} is empty: give a text")
    return found[0]


def _probes(found: Any, name: str = "") -> Iterator[Probe]:
    """Probes of ``{prompt, ground_truth}``, of a list of these, or of an object of such lists by name."""
    if found is None:
        return
    if isinstance(found, Mapping) and "prompt" not in found:
        for kind, inner in found.items():
            yield from _probes(inner, str(kind))
    elif isinstance(found, Mapping):
        prompts = texts(found["prompt"], "prompt")
        answers = found.get("ground_truth", found.get("answer"))
        several = len(prompts) > 1 and isinstance(answers, list) and len(answers) == len(prompts)
        for number, prompt in enumerate(prompts):
            yield Probe(prompt, texts(answers[number] if several else answers, "an answer"), name)
    else:
        for each in found:
            yield from _probes(each, name)


def _own(record: Record) -> Iterator[Edit]:
    yield Edit.from_dict(record)


def _shared(record: Record) -> Iterator[Edit]:
    """Facts with neighbours: ``prompt, subject, target_true, target_new, paraphrases, neighborhood, portability``."""
    yield Edit(
        prompt=record["prompt"],
        target_new=record["target_new"],
        subject=record.get("subject"),
        ground_truth=texts(record.get("target_true"), "target_true"),
        rephrases=texts(record.get("paraphrases"), "paraphrases"),
        locality=tuple(_probes(record.get("neighborhood"), "neighborhood")),
        portability=tuple(_probes(record.get("portability"), "portability")),
        relation=record.get("relation"),
        id=str(record.get("case_id", "")),
    )


def _counterfact(record: Record) -> Iterator[Edit]:
    """ROME's release. Neighbours have the old answer, and prompts with the same attribute the new one."""
    asked = record["requested_rewrite"]
    true, new = asked["target_true"]["str"], asked["target_new"]["str"]
    near = [Probe(prompt, (true,), "neighborhood") for prompt in record.get("neighborhood_prompts") or ()]
    alike = [Probe(prompt, (new,), "attribute") for prompt in record.get("attribute_prompts") or ()]
    yield Edit(
        prompt=asked["prompt"].replace("{}", asked["subject"]),
        target_new=new,
        subject=asked["subject"],
        ground_truth=(true,),
        rephrases=texts(record.get("paraphrase_prompts"), "paraphrase_prompts"),
        locality=(*near, *alike),
        relation=asked.get("relation_id"),
        id=str(record.get("case_id", "")),
    )


def _counterfact_flat(record: Record) -> Iterator[Edit]:
    """EasyEdit's."""
    prompts = texts(record["locality_prompt"], "locality_prompt")
    answers = texts(record.get("locality_ground_truth"), "locality_ground_truth")
    paired = len(prompts) == len(answers) > 1
    yield Edit(
        prompt=record["prompt"],
        target_new=record["target_new"],
        subject=record.get("subject"),
        ground_truth=texts(record.get("ground_truth"), "ground_truth"),
        rephrases=texts(record.get("rephrase_prompt"), "rephrase_prompt"),
        locality=tuple(
            Probe(prompt, (answers[number],) if paired else answers, "neighborhood")
            for number, prompt in enumerate(prompts)
        ),
        id=str(record.get("case_id", "")),
    )


def _zsre(record: Record) -> Iterator[Edit]:
    """MEND's: the new answer is ``alt``, the right one among ``answers``; locality is a Natural Question."""
    question = str(record["loc"]).removeprefix("nq question: ")
    yield Edit(
        prompt=record["src"],
        target_new=_text(record["alt"], "alt"),
        subject=record.get("subject"),
        ground_truth=texts(record.get("answers"), "answers"),
        rephrases=texts(record.get("rephrase"), "rephrase"),
        locality=(Probe(question, texts(record.get("loc_ans"), "loc_ans"), "natural_questions"),),
    )


def _knowedit(record: Record) -> Iterator[Edit]:
    """WikiData_recent, wiki_counterfact and ZsRE as KnowEdit has them."""
    yield Edit(
        prompt=record["prompt"],
        target_new=_text(record["target_new"], "target_new"),
        subject=record.get("subject"),
        ground_truth=texts(record.get("ground_truth"), "ground_truth"),
        rephrases=texts(record.get("rephrase_prompt", record.get("rephrase")), "rephrase_prompt"),
        locality=tuple(_probes(record.get("locality"))),
        portability=tuple(_probes(record.get("portability"))),
        id=str(record.get("case_id", "")),
    )


def _wikibio(record: Record) -> Iterator[Edit]:
    """A biography's beginning is continued by what is true; the concept is named in it, or it has no subject."""
    prompt, concept = record["text"], record.get("concept")
    yield Edit(
        prompt=prompt,
        target_new=_text(record["labels"], "labels"),
        subject=concept if concept and concept in prompt else None,
        locality=tuple(_probes(record.get("locality"))),
    )


def _convsent(record: Record) -> Iterator[Edit]:
    """A topic and what speakers who like it, or do not, say of it: the sentiment is to become good."""
    topic = record["ent"]
    yield Edit(
        prompt=SENTIMENTS["pos"].format(topic),
        target_new=_text(record["pos"], "pos"),
        subject=topic,
        ground_truth=texts(record.get("neg"), "neg"),
        rephrases=(f"What do you think of {topic}?",),
        relation="sentiment",
    )


def _sanitation(data: Record) -> list[dict[str, Any]] | None:
    """The records of a file of secrets: those to forget, each with one to keep; None for another file."""
    for forget, keep in (("K_F", "K_R"), ("success", "locality")):
        if isinstance(data.get(forget), list):
            kept = data.get(keep) or []
            return [
                {"forget": each, "keep": kept[n % len(kept)] if kept else None} for n, each in enumerate(data[forget])
            ]
    return None


def _secret(record: Record) -> Iterator[Edit]:
    """KnowEdit's Sanitation: a secret is answered with "I don't know." and other questions as before."""
    asked, kept = record["forget"], record["keep"]
    probes = () if kept is None else (Probe(_question(kept), texts(kept.get("ground_truth"), "ground_truth"), "kept"),)
    yield Edit(
        prompt=_question(asked),
        target_new=_text(asked.get("target_new") or SECRET, "target_new"),
        ground_truth=texts(asked.get("ground_truth"), "ground_truth"),
        locality=probes,
    )


def _question(record: Record) -> str:
    return record["question"] if "question" in record else record["prompt"]


def _mquake(record: Record) -> Iterator[Edit]:
    """One group for each case: its rewrites, and with the last of them the questions that need all."""
    rewrites = record["requested_rewrite"]
    group = str(record.get("case_id", "")) or _text(record["questions"], "questions")
    answers = (*texts(record["new_answer"], "new_answer"), *texts(record.get("new_answer_alias"), "new_answer_alias"))
    hops = [Probe(question, answers, "multi_hop") for question in texts(record["questions"], "questions")]
    for each in record.get("new_single_hops") or ():
        known = (*texts(each["answer"], "answer"), *texts(each.get("answer_alias"), "answer_alias"))
        hops.append(Probe(each["question"], known, "single_hop"))
    for number, rewrite in enumerate(rewrites):
        yield Edit(
            prompt=rewrite["prompt"].replace("{}", rewrite["subject"]),
            target_new=rewrite["target_new"]["str"],
            subject=rewrite["subject"],
            ground_truth=(rewrite["target_true"]["str"],),
            rephrases=texts(rewrite.get("question"), "question"),
            portability=tuple(hops) if number == len(rewrites) - 1 else (),
            relation=rewrite.get("relation_id"),
            group=group,
            id=f"{group}.{number}",
        )


def _cknowedit(record: Record) -> Iterator[Edit]:
    """Chinese knowledge; probes in lists, or under flat names."""

    def probes(kind: str) -> tuple[Probe, ...]:
        flat = {"prompt": record.get(f"{kind}_prompt"), "answer": record.get(f"{kind}_answer")}
        return tuple(_probes(record.get(kind) or (flat if flat["prompt"] else None), kind))

    yield Edit(
        prompt=record["prompt"],
        target_new=_text(record["target_new"], "target_new"),
        subject=record.get("subject"),
        ground_truth=texts(record["target_old"], "target_old"),
        rephrases=texts(record.get("rephrase"), "rephrase"),
        locality=probes("locality"),
        portability=probes("portability"),
    )


def _has(*keys: str) -> Callable[[Record], bool]:
    return lambda record: all(key in record for key in keys)


# The first that fits is taken, so that forms with more keys of their own come first.
FORMS: dict[str, tuple[Callable[[Record], bool], Callable[[Record], Iterator[Edit]]]] = {
    "mquake": (lambda r: isinstance(r.get("requested_rewrite"), list), _mquake),
    "counterfact": (lambda r: isinstance(r.get("requested_rewrite"), Mapping), _counterfact),
    "counterfact_flat": (_has("prompt", "target_new", "locality_prompt", "subject"), _counterfact_flat),
    "zsre": (_has("src", "alt", "loc"), _zsre),
    "wikibio": (_has("text", "labels"), _wikibio),
    "convsent": (_has("ent", "pos", "neg"), _convsent),
    "sanitation": (_has("forget", "keep"), _secret),
    "cknowedit": (_has("prompt", "target_old", "target_new"), _cknowedit),
    "neighborhood": (_has("prompt", "target_new", "neighborhood"), _shared),
    "own": (lambda r: "prompt" in r and "target_new" in r and not _is_knowedit(r), _own),
    "knowedit": (_has("prompt", "target_new"), _knowedit),
}


def _is_knowedit(record: Record) -> bool:
    probes = [record.get("locality"), record.get("portability")]
    return "rephrase_prompt" in record or any(isinstance(each, Mapping) for each in probes) or "cond" in record
