"""Reading as a datatrove step: a task reads its parts, and its report is there afterwards."""

import pickle
from itertools import chain

import pytest

from src.corpus.readers import Reading, ReadParts, plan_parts


@pytest.fixture
def step(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.jsonl").write_bytes(b'{"text": "%d"}\n' % i)
    return ReadParts(plan_parts(sorted(tmp_path.iterdir()), Reading(), 1), Reading())


@pytest.mark.parametrize("tasks", [1, 3, 5, 7])
def test_every_part_is_read_by_one_task_with_any_number_of_them(step, tasks):
    texts = [[document.text for document in step.run(None, rank, tasks)] for rank in range(tasks)]
    assert sorted(chain.from_iterable(texts)) == ["0", "1", "2", "3", "4"]


def test_the_report_is_of_the_last_run_and_the_step_travels(step):
    travelled = pickle.loads(pickle.dumps(step))
    for rank in (0, 1):
        assert len(list(travelled.run(None, rank, 5))) == travelled.report.documents == 1
    assert travelled.stats["documents"].total == 2
