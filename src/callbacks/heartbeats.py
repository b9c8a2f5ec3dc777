"""Signs of life of every rank, and who is to blame when they stop.

Each rank has a thread that writes a `Beat` into a key-value store every few seconds, over a connection of its own, so
that nothing waits for a collective. When a rank has made no progress for too long, the beats of all ranks show which
one is behind; that one writes its Python stacks to its log, and all of them end with status ``EXIT_HANGING``, for a
scheduler to start the job again. Time is counted in beats, so a job that was suspended as a whole is no hanging one.
"""

import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed import Store

log = logging.getLogger(__name__)

EXIT_HANGING = 75  # EX_TEMPFAIL of sysexits.h: try again later
_LOST_S = 60.0  # without store and without progress a rank ends after so many seconds
_DEAD_S = 15.0  # the survivors of a dead rank have so long to end by themselves
RUNNING, ENDED = "running", "ended"


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself.

    started: when its process did, to tell it from a later one with the same number.
    position: events of the training loop so far; the ranks of a run go through the same ones.
    idle_s: seconds since the last event.
    where: innermost line of the main thread.
    state: ``running``, ``ended``, or the error that ended it.
    """

    rank: int
    host: str
    process: int
    started: str
    number: int
    position: int
    step: int
    phase: str
    idle_s: float
    where: str
    state: str

    @property
    def name(self) -> str:
        return f"rank {self.rank} on {self.host} (process {self.process})"

    @property
    def doing(self) -> str:
        return f"{self.phase} in step {self.step}" if self.step else self.phase


class Heartbeats:
    """Beats of this rank, and a look at those of the others.

    Args:
        store: shared by all ranks and used by nobody else.
        interval_s: seconds between beats.
        timeout_s: seconds without progress after which the run is ended.
    """

    def __init__(self, store: Store, rank: int, world_size: int, interval_s: float, timeout_s: float) -> None:
        self.store: Any = store  # typed without half of its methods
        self.rank, self.world_size = rank, world_size
        self.interval_s, self.timeout_s = interval_s, timeout_s
        self.idle_beats = 0
        self._host, self._started = socket.gethostname(), process_start(os.getpid()) or ""
        self._number = self._position = self._step = self._unanswered = 0
        self._phase = "setting up"
        self._state = RUNNING
        self._ending = threading.Event()
        self._stopped = threading.Event()
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._clock = threading.Thread(target=self._count, name="watchdog's clock", daemon=True)

    # For the main thread

    def start(self) -> None:
        self.store.append(f"host/{self._host}", f"{self.rank} ")
        self._beat()
        self._dump_later()
        self._thread.start()
        self._clock.start()

    def progress(self, phase: str, step: int, common: bool = True) -> None:
        """Something was finished and ``phase`` begins.

        Args:
            step: the optimizer step that is being worked on, counted from 1.
            common: every rank of the run does the same; false for what one does alone.
        """
        self._phase, self._step = phase, step
        self._position += common
        self.idle_beats = 0

    def stop(self, state: str = ENDED) -> None:
        """Say goodbye: nobody waits for this rank any more. Does not come back if the run is being ended."""
        self._wait_if_ending()
        self._stopped.set()
        self._thread.join(2 * self.interval_s)
        faulthandler.cancel_dump_traceback_later()
        self._state = state
        try:
            self._beat()
        except RuntimeError:  # the store went with rank 0
            log.debug("the store is gone already", exc_info=True)

    def lost_peer(self, error: BaseException, patience_s: float = 5.0) -> str | None:
        """Who caused an error of this rank, where another one did; None if nobody else has failed.

        Waits a little, because the connection to a rank may break before its last beat arrives.
        """
        self._wait_if_ending()
        if self.world_size == 1 or not is_connection_error(error):
            return None
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            try:
                beats = self._beats(range(self.world_size))
            except RuntimeError:
                return f"rank {self.rank} lost the connection to rank 0 and to its store"
            for beat in beats:
                if beat.rank != self.rank and beat.state not in (RUNNING, ENDED):
                    return f"{beat.name} failed {beat.doing}: {beat.state}"
                if beat.rank != self.rank and self._died(beat):
                    return f"{beat.name} died {beat.doing}"
            self._wait_if_ending()
            time.sleep(0.2)
        return None

    def _wait_if_ending(self) -> None:
        """Let the watching thread end the process, with its own status, where it has decided to."""
        try:
            decided = self.store.check(["verdict"]) and not json.loads(self.store.get("verdict"))["dead"]
        except RuntimeError:
            decided = False
        if decided or self._ending.is_set():
            self._thread.join(_DEAD_S + 10 * self.interval_s)

    # For the watching threads

    def _run(self) -> None:
        while not self._stopped.wait(self.interval_s):
            try:
                self._beat()
                self._look()
                self.every_beat()
                self._unanswered = 0
            except RuntimeError:  # torch's errors of stores are RuntimeErrors
                log.debug("the store of the run does not answer", exc_info=True)

    def _count(self) -> None:
        """Count time, and end the process where the store does not answer: some of its calls then wait for ever."""
        while not self._stopped.wait(self.interval_s):
            self.idle_beats += 1
            self._unanswered += 1
            self._dump_later()
            if self._unanswered >= 4 and self._idle_s() >= min(_LOST_S, self.timeout_s) and not self._ending.is_set():
                self._end(
                    "the store of the run, with rank 0 or its launcher, does not answer and nothing has moved for "
                    f"{self._idle_s():.0f} s"
                )

    def every_beat(self) -> None:
        """What else a subclass does at each beat."""

    def _dump_later(self) -> None:
        """Unless called again in time: C code that holds Python's lock stops our thread, but not faulthandler's."""
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(self.timeout_s, file=sys.__stderr__)

    def _beat(self) -> None:
        self._number += 1
        self.store.set(f"beat/{self.rank}", json.dumps(asdict(self._own())))

    def _own(self) -> Beat:
        return Beat(
            rank=self.rank,
            host=self._host,
            process=os.getpid(),
            started=self._started,
            number=self._number,
            position=self._position,
            step=self._step,
            phase=self._phase,
            idle_s=self._idle_s(),
            where=where(sys._current_frames().get(self._main or 0)),
            state=self._state,
        )

    def _idle_s(self) -> float:
        return self.idle_beats * self.interval_s

    def _beats(self, ranks: Iterable[int]) -> list[Beat]:
        """The last beats of those ranks that have sent one."""
        keys = [key for key in (f"beat/{rank}" for rank in ranks) if self.store.check([key])]
        return [Beat(**json.loads(text)) for text in self.store.multi_get(keys)] if keys else []

    def _look(self) -> None:
        if self.store.check(["verdict"]):
            self._obey(json.loads(self.store.get("verdict")))
            return
        on_this_host = [int(rank) for rank in self.store.get(f"host/{self._host}").split()]
        for beat in self._beats(on_this_host):
            if beat.rank != self.rank and beat.state == RUNNING and self._died(beat):
                self._accuse(f"{beat.name} died {beat.doing}", [beat], [], dead=True)
                return
        if self._idle_s() >= self.timeout_s:
            self._judge()

    def _died(self, beat: Beat) -> bool:
        """Whether the process of a beat is gone; only its own machine can tell."""
        return beat.host == self._host and bool(beat.started) and process_start(beat.process) != beat.started

    def _judge(self) -> None:
        """Find the ranks that all others wait for, and end the run if they have had their time."""
        before = {beat.rank: beat for beat in self._beats(range(self.world_size))}
        self._unanswered = 0
        for _ in range(3):
            if self._stopped.wait(self.interval_s):
                return
            self._beat()
        beats = self._beats(range(self.world_size))
        running = [beat for beat in beats if beat.state == RUNNING]
        silent = [b for b in running if b.rank in before and b.number == before[b.rank].number]
        first = min(beat.position for beat in running)
        behind = silent or [beat for beat in running if beat.position == first]
        if self.idle_beats == 0 or not all(
            b in silent or b.idle_s >= self.timeout_s - 2 * self.interval_s for b in behind
        ):
            return  # it moves again, or those behind still have time
        named = behind if len(behind) < len(running) or len(running) == 1 else []
        self._accuse(self._accusation(named, running, silent), named, silent)

    def _accusation(self, named: Sequence[Beat], running: Sequence[Beat], silent: Sequence[Beat]) -> str:
        for_s = f"for {self._idle_s():.0f} s"
        if not named:
            phases = " or ".join(sorted({beat.phase for beat in running}))
            return (
                f"no rank has got on with step {self._step} {for_s} and none is behind the others (all are {phases}): "
                "each writes its stacks to its log"
            )
        clauses = []
        for beat in named:
            if beat in silent:
                clauses.append(f"{beat.name} has given no sign of life {for_s}, last seen {beat.doing}")
            else:
                clauses.append(
                    f"{beat.name} has not got on with step {beat.step} {for_s}: it is {beat.phase} ({beat.where})"
                )
        waiting = [beat.rank for beat in running if beat not in named]
        tail = f"; {ranks_in_words(waiting)} for it" if waiting else ""
        return ", and ".join(clauses) + tail

    def _accuse(self, text: str, named: Sequence[Beat], silent: Sequence[Beat], dead: bool = False) -> None:
        """Publish a verdict, unless another rank was faster, and obey the one that stands."""
        ranks = {"named": [beat.rank for beat in named], "silent": [beat.rank for beat in silent]}
        mine = json.dumps({"text": text, **ranks, "dead": dead, "by": self.rank})
        self._obey(json.loads(self.store.compare_set("verdict", "", mine)))

    def _obey(self, verdict: dict[str, Any]) -> None:
        silent = self._beats(verdict["silent"])  # nothing is asked of the store any more: rank 0 may go with it
        if self.rank in (0, verdict["by"]):
            log.error("%s", verdict["text"])
        if verdict["dead"]:
            if self._stopped.wait(_DEAD_S):  # the error of the broken connection ended it in order
                return
        elif self.rank in verdict["named"] or not verdict["named"]:
            dump_stacks(f"stacks of rank {self.rank}, {self._own().doing}:")
        self._ending.set()
        faulthandler.cancel_dump_traceback_later()
        # Rank 0 may hold the store, where the others still have to read the verdict.
        time.sleep((4 if self.rank == 0 else 2) * self.interval_s)
        for beat in silent:
            if beat.host == self._host and process_start(beat.process) == beat.started:
                os.kill(beat.process, signal.SIGKILL)  # stopped, or stuck where its own thread can't run
        self._end(None)

    def _end(self, why: str | None) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._ending.set()
        if why:
            log.error("rank %d on %s: %s", self.rank, self._host, why)
            dump_stacks(f"stacks of rank {self.rank}, {self._own().doing}:")
        if why or self.rank == 0:
            log.error("ending with status %d: start again with the same command and ckpt_path=last", EXIT_HANGING)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        logging.shutdown()
        os._exit(EXIT_HANGING)  # the main thread hangs: nothing gentler reaches it


def dump_stacks(title: str) -> None:
    """Python stacks of all threads on standard error."""
    stream = sys.__stderr__
    if stream is not None:
        print(title, file=stream, flush=True)
        faulthandler.dump_traceback(stream, all_threads=True)


def process_start(process: int) -> str | None:
    """When a process of this machine started, in clock ticks since boot; None if it has ended or there is no /proc."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def where(frame: FrameType | None) -> str:
    """The innermost line of a stack, such as ``dataloader.py:733 in __next__``."""
    if frame is None:
        return "unknown"
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"


def is_connection_error(error: BaseException) -> bool:
    """Whether an error of a collective says that another rank is gone."""
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("connection", "gloo", "nccl", "distbackenderror", "socket"))


def ranks_in_words(ranks: Sequence[int]) -> str:
    """``rank 0 waits``, ``ranks 0-2, 5 wait``."""
    if len(ranks) == 1:
        return f"rank {ranks[0]} waits"
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return f"ranks {', '.join(str(r[0]) if len(r) == 1 else f'{r[0]}-{r[-1]}' for r in runs)} wait"
