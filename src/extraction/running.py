"""Plans of many documents through one engine that always has work, with the results in the documents' order."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from src.extraction.plan import Extraction, Plan, finish, follow_up
from src.generation.engine import Request
from src.generation.tasks import Answer, AnswerPool


@dataclass(eq=False)
class _Job:
    """A document on its way."""

    step: Plan
    answers: list[Answer] = field(default_factory=list)

    @property
    def is_answered(self) -> bool:
        return len(self.answers) == len(self.step.asks)


class Run:
    """Plans through a pool, their results in the plans' order."""

    def __init__(self, pool: AnswerPool, plans: Iterator[Plan]):
        self._pool, self._plans = pool, plans
        self._jobs: dict[int, _Job] = {}
        self._waiting: deque[tuple[int, Request]] = deque()
        self._count = 0

    def results(self) -> Iterator[Extraction]:
        """What each plan's document holds; plans are taken as there is room for their requests."""
        first = 0
        while True:
            self._fill()
            while first in self._jobs and self._jobs[first].is_answered:
                job = self._jobs.pop(first)
                first += 1
                yield finish(job.step, job.answers)
                self._fill()
            if not self._jobs:
                return
            answer = self._pool.next()
            number, _, name = answer.id.partition("/")
            self._take(int(number), replace(answer, id=name))

    def _fill(self) -> None:
        """Give the engine all the work it has room for."""
        while self._pool.under_way < self._pool.room:
            if not self._waiting and not self._begin():
                return
            if self._waiting:
                number, request = self._waiting.popleft()
                self._pool.submit(replace(request, id=f"{number}/{request.id}"))

    def _begin(self) -> bool:
        """Take one more document; False where there is none."""
        step = next(self._plans, None)
        if step is None:
            return False
        self._jobs[self._count] = _Job(step)
        self._waiting.extend((self._count, request) for request in step.requests)
        self._count += 1
        return True

    def _take(self, number: int, answer: Answer) -> None:
        job = self._jobs[number]
        job.answers.append(answer)
        if job.is_answered and (more := follow_up(job.step, job.answers)) is not None:
            job.step, job.answers = more, []
            self._waiting.extendleft((number, request) for request in reversed(more.requests))


def answer_all(pool: AnswerPool, step: Plan) -> list[Answer]:
    """The answers to all requests of a plan, through a pool that has nothing else to do."""
    waiting = deque(step.requests)
    answers: list[Answer] = []
    while len(answers) < len(step.asks):
        while waiting and pool.under_way < pool.room:
            pool.submit(waiting.popleft())
        answers.append(pool.next())
    return answers
