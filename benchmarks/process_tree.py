"""What a command costs: CPU time of its whole process tree, wall time, and where it is watched, what each process took.

CPU time (user and system) is the steadiest measure on a machine that others use too: it hardly moves with their load,
where wall time doubles.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_EVERY_S = 0.02
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Process:
    """One process of a tree, as far as sampling saw it. PSS counts shared pages in equal shares, RSS in full."""

    cpu_s: float = 0.0
    peak_pss_mb: float = 0.0
    peak_rss_mb: float = 0.0


@dataclass
class Usage:
    """What a command used. `processes`, by id, are its own and those it started, where it was watched."""

    cpu_s: float
    wall_s: float
    output: str
    pid: int
    processes: dict[int, Process] = field(default_factory=dict)

    @property
    def busiest_worker_cpu_s(self) -> float:
        """CPU time of that process which had most to do, of those that the command started."""
        return max(process.cpu_s for pid, process in self.processes.items() if pid != self.pid)


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, watch: bool = False, memory: bool = False
) -> Usage:
    """Run a command to its end, in one thread a process.

    Args:
        environment: variables over those of this process.
        watch: sample the CPU time of every process.
        memory: sample their memory too, which slows them down.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.monotonic()
        process = subprocess.Popen(
            command, env=os.environ | ONE_THREAD | dict(environment or {}), stdout=output, stderr=errors
        )
        processes: dict[int, Process] = {}
        options = os.WNOHANG if watch or memory else 0
        while True:
            ended, status, usage = os.wait4(process.pid, options)
            if ended:
                break
            _sample(process.pid, processes, memory)
            time.sleep(SAMPLE_EVERY_S)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} failed ({process.returncode}): {''.join(texts)[-3000:]}")
        return Usage(usage.ru_utime + usage.ru_stime, wall, texts[0], process.pid, processes)


def _sample(root: int, processes: dict[int, Process], memory: bool) -> None:
    """Bring the processes of a tree up to date."""
    children: dict[int, list[int]] = {}
    times: dict[int, float] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _read(f"/proc/{entry}/stat")):
            fields = stat.rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry))
            times[int(entry)] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
        process = processes.setdefault(pid, Process())
        process.cpu_s = max(process.cpu_s, times.get(pid, 0.0))
        if memory:
            process.peak_pss_mb = max(process.peak_pss_mb, _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") / 1e3)
            process.peak_rss_mb = max(process.peak_rss_mb, _kilobytes(f"/proc/{pid}/status", "VmHWM:") / 1e3)


def _kilobytes(file: str, key: str) -> float:
    """A size in units of 1000 bytes from a file of ``key: n kB`` lines; the kernel's kB are 1024 bytes."""
    for line in _read(file).splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1.024
    return 0.0


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:  # the process has ended
        return ""
