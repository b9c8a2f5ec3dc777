"""What the server counts, in the text format of Prometheus, in a registry of its own."""

import functools

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from src.serving.admission import Admission
from src.serving.served import Catalogue

CONTENT_TYPE = CONTENT_TYPE_LATEST
LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """All counters of one server. Labels have few values: routes as they are written in the code, names of models."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for each, with the time of its first value
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        counter = functools.partial(Counter, registry=self.registry)
        gauge = functools.partial(Gauge, registry=self.registry)
        long = functools.partial(Histogram, buckets=LONG, registry=self.registry)
        short = functools.partial(Histogram, buckets=SHORT, registry=self.registry)
        self.requests = counter("knowlm_requests", "Requests by route and status", ["route", "code"])
        self.seconds = long("knowlm_request_seconds", "From arrival to last byte", ["route"])
        self.first_token = long("knowlm_time_to_first_token_seconds", "From arrival to the first text", ["model"])
        self.inter_token = short("knowlm_inter_token_seconds", "Between tokens of an answer", ["model"])
        self.queue = long("knowlm_queue_seconds", "Waiting for a place at the engine", ["model"])
        self.prompt_tokens = counter("knowlm_prompt_tokens", "Tokens of prompts", ["model"])
        self.generation_tokens = counter("knowlm_generation_tokens", "Tokens of answers", ["model"])
        self.rejected = counter("knowlm_rejected", "Requests refused, by the error's code", ["reason"])
        self.aborted = counter("knowlm_aborted", "Answers broken off", ["reason"])
        self.running = gauge("knowlm_running", "Answers being written", ["engine"])
        self.waiting = gauge("knowlm_waiting", "Answers in line", ["engine"])
        self.loaded = gauge("knowlm_model_loaded", "1 for each model whose engine is ready", ["model", "engine"])
        self.extracted = counter(
            "knowlm_extraction_answers", "Answers of /extract by how they could be read", ["status"]
        )
        self.log_dropped = counter("knowlm_access_log_dropped", "Lines the access log could not take")

    def watch(self, engine: str, admission: Admission) -> None:
        """Show who runs and waits at an engine."""
        self.running.labels(engine).set_function(lambda: admission.running)
        self.waiting.labels(engine).set_function(lambda: admission.waiting)

    def text(self, models: Catalogue) -> bytes:
        """Everything as it is now."""
        for model in models:
            self.loaded.labels(model.id, model.engine.name).set(model.engine.is_ready())
        return generate_latest(self.registry)
