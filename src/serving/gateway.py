"""What the routes of one server share: models, places, limits, counters, and the requests that run now."""

import time
from collections.abc import Sequence

from src.generation.engine import Engine
from src.serving.access_log import AccessLog, Trace
from src.serving.admission import Admission
from src.serving.asking import Asked
from src.serving.errors import ApiError
from src.serving.job import Job
from src.serving.metrics import Metrics
from src.serving.rates import KeyLimits
from src.serving.sampling import check_preset
from src.serving.served import Catalogue, ServedModel
from src.serving.settings import Settings


class Gateway:
    """The state of a server."""

    def __init__(self, models: Sequence[ServedModel], settings: Settings):
        self.models, self.settings = Catalogue(models), settings
        check_preset(settings, self.models.engines())
        self.metrics = Metrics()
        self.log = AccessLog(settings.log_file, self.metrics.log_dropped.inc)
        self.limits = KeyLimits(settings.requests_per_minute, settings.tokens_per_minute, settings.concurrent_per_key)
        self.jobs: set[Job] = set()
        self.draining = False
        self.aborted = False
        self.in_flight = 0  # requests to the API that have not ended
        self._admissions: dict[int, Admission] = {}
        self._down_since: dict[int, float] = {}
        for number, engine in enumerate(self.models.engines()):
            admission = Admission(engine.max_parallel, settings.max_waiting, settings.queue_wait_s)
            self._admissions[id(engine)] = admission
            self.metrics.watch(f"{engine.name}-{number}", admission)

    def job(self, asked: Asked, trace: Trace, deadline_s: float) -> Job:
        """Put the answers that a request asks for in line. Raises 429, 503; `done` must follow."""
        if self.aborted:  # while its body was read
            raise draining()
        queue = self.metrics.queue.labels(asked.served.id)

        def queued(seconds: float) -> None:
            queue.observe(seconds)
            trace.queue_s = max(seconds, trace.queue_s or 0.0)

        engine = asked.served.engine
        job = Job(
            engine,
            asked.requests,
            self._admissions[id(engine)],
            deadline_s,
            trace.seconds,
            self.settings.ping_s,
            trace.id,
            queued,
            asked.places,
        )
        self.jobs.add(job)
        return job

    def done(self, job: Job) -> None:
        """A job has ended, however it did."""
        job.close()
        self.jobs.discard(job)

    def abort_all(self) -> None:
        """End the answers that still run, with an error, and let none begin."""
        self.aborted = True
        for job in list(self.jobs):
            job.fail(draining())

    def is_ready(self) -> bool:
        """Whether it takes requests now, and every engine would too."""
        return not self.draining and all([self._sees_ready(engine) for engine in self.models.engines()])

    def is_healthy(self) -> bool:
        """False once an engine has been down for longer than it should take to be started again."""
        limit = self.settings.unhealthy_after_s
        return all([self._sees_ready(engine) or self._down_s(engine) <= limit for engine in self.models.engines()])

    def _sees_ready(self, engine: Engine) -> bool:
        ready = engine.is_ready()
        if ready:
            self._down_since.pop(id(engine), None)
        else:
            self._down_since.setdefault(id(engine), time.monotonic())
        return ready

    def _down_s(self, engine: Engine) -> float:
        return time.monotonic() - self._down_since[id(engine)]


def draining() -> ApiError:
    """What a request is told when the server is about to end."""
    return ApiError(503, "the server is shutting down: try again soon", code="draining", retry_after_s=5)
