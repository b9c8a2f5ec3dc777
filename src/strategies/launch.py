"""Who started this process, which of how many it is, and how the processes of a run find each other.

Known launchers: torchrun, Slurm's srun, the deepspeed launcher and others that set ``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``, ``MASTER_ADDR``; Lightning itself, which starts the processes of one machine; and Lightning on several
machines, each started by hand with ``MASTER_ADDR`` and ``NODE_RANK``.

Processes meet in a TCP store at ``MASTER_ADDR:MASTER_PORT`` before anything slow begins. PyTorch has one rule for a
store that exists already, made for torchrun (``TORCHELASTIC_USE_AGENT_STORE``), and all launchers use it here: process
0 opens the store, and every strategy's ``init_process_group`` becomes a client of it.

torch is imported only when there is somebody to meet: commands that only look stay quick.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from src.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import Store

DEFAULT_PORT = 29500
DEFAULT_TIMEOUT_S = 600.0

_store: Store | None = None
_meetings = 0


@dataclass(frozen=True)
class Launch:
    """One process of several that a launcher started.

    launcher: as a person calls it.
    local_world_size: processes on this node.
    """

    launcher: str
    rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int
    address: str
    port: int

    @property
    def nodes(self) -> int:
        return max(1, self.world_size // self.local_world_size)


def find_launch() -> Launch | None:
    """The launch this process belongs to; None where Lightning starts the processes, or there is just one."""
    env = os.environ
    variables = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= env.keys()
    if variables and env.keys() & {"LOCAL_WORLD_SIZE", "LOCAL_SIZE"}:
        return _launched_by_variables()
    steps = {"SLURM_PROCID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID"}
    if steps <= env.keys() and int(env["SLURM_STEP_NUM_TASKS"]) > 1:  # one task may be a shell: srun --pty bash
        return _launched_by_srun()  # also where DeepSpeed, in an earlier job of a sweep, has set the variables
    return _launched_by_variables() if variables else None


def _launched_by_variables() -> Launch:
    env = os.environ
    rank, local_rank, world_size = (int(env[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if "TORCHELASTIC_RUN_ID" in env:
        launcher = "torchrun"
    else:
        launcher = "deepspeed" if "CROSS_SIZE" in env else "RANK and WORLD_SIZE"
    local_world_size = int(env.get("LOCAL_WORLD_SIZE") or env.get("LOCAL_SIZE") or world_size)
    node_rank = env.get("GROUP_RANK") or env.get("CROSS_RANK") or env.get("NODE_RANK") or rank // local_world_size
    port = int(env.get("MASTER_PORT", DEFAULT_PORT))
    return Launch(launcher, rank, local_rank, int(node_rank), world_size, local_world_size, env["MASTER_ADDR"], port)


def _launched_by_srun() -> Launch:
    env = os.environ
    world_size = int(env["SLURM_STEP_NUM_TASKS"])
    nodes = int(env.get("SLURM_STEP_NUM_NODES", 1))
    address = env.get("MASTER_ADDR") or first_host(env.get("SLURM_STEP_NODELIST", "127.0.0.1"))
    # The same number in every process of a job step, another one in another job.
    port = int(env.get("MASTER_PORT") or 15000 + int(env["SLURM_JOB_ID"]) % 10000 + int(env["SLURM_STEP_ID"]) % 1000)
    return Launch(
        "srun",
        int(env["SLURM_PROCID"]),
        int(env["SLURM_LOCALID"]),
        int(env["SLURM_NODEID"]),
        world_size,
        world_size // nodes,
        address,
        port,
    )


def first_host(nodes: str) -> str:
    """The first of a list as Slurm writes it: ``node[03-05,9],other`` begins with node03."""
    found = re.match(r"([^\[,\s]+)(?:\[(\w+))?", nodes)
    return found[1] + (found[2] or "") if found else "127.0.0.1"


def started_by_hand() -> bool:
    """Whether a person started this process as one of several nodes; Lightning starts the others of its node."""
    return {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys() and "LOCAL_RANK" not in os.environ and not find_launch()


def this_rank() -> int:
    """Number of this process; 0 where it is the only one so far."""
    launch = find_launch()
    if launch is not None:
        return launch.rank
    local_rank, node_rank = (int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "NODE_RANK"))
    # Lightning's children inherit the node's world size where it knows it.
    per_node = int(os.environ.get("KNOWLM_DEVICES", 1))
    return node_rank * per_node + local_rank


def meet(num_nodes: int, devices: int, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
    """Wait until every process of the run is there and wants the same; nothing to do for one that is alone.

    Raises:
        UserError: a process is missing after ``timeout_s``, or the nodes were started with different settings; the
            sentence names them.
    """
    global _meetings
    launch, os.environ["KNOWLM_DEVICES"] = find_launch(), str(devices)
    if launch is not None and launch.world_size > 1:
        rank, count, name = launch.rank, launch.world_size, "rank"
    elif launch is None and started_by_hand() and (num_nodes > 1 or int(os.environ["NODE_RANK"])):
        rank, count, name = int(os.environ["NODE_RANK"]), num_nodes, "node"
    else:
        return
    store = open_store(timeout_s)
    _meetings += 1  # of each job of a sweep
    mine = f"trainer.num_nodes={num_nodes} trainer.devices={devices}"
    wait = timedelta(seconds=timeout_s)
    if rank == 0:
        verdict = _collect(store, mine, count, name, timeout_s)
        store.set(f"verdict/{_meetings}", f"{mine}|{verdict}")
        theirs = mine
    else:
        store.set(f"arrived/{_meetings}/{rank}", f"{mine}|{socket.gethostname()}")
        try:
            store.wait([f"verdict/{_meetings}"], wait + timedelta(seconds=10))  # process 0 says who is missing
        except RuntimeError as error:
            raise UserError(f"{name} 0 at {_where()} went away while the processes met: look at its output") from error
        theirs, _, verdict = store.get(f"verdict/{_meetings}").decode().partition("|")
    if theirs != mine:
        verdict = _disagreement(name, rank, socket.gethostname(), mine, theirs)
    if verdict:
        if rank == 0:
            time.sleep(1)  # the store ends with this process: let the others read why
        raise UserError(verdict)


def _collect(store: Store, mine: str, count: int, name: str, timeout_s: float) -> str:
    """What process 0 finds wrong with the others; empty where all is well."""
    missing, deadline = list(range(1, count)), time.monotonic() + timeout_s
    while missing:
        for rank in list(missing):
            key = f"arrived/{_meetings}/{rank}"
            if store.check([key]):
                theirs, _, host = store.get(key).decode().partition("|")
                if theirs != mine:
                    return _disagreement(name, rank, host, theirs, mine)
                missing.remove(rank)
        if missing and time.monotonic() > deadline:
            shown = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
            return (
                f"{len(missing)} of {count} {name}s have not come to {_where()} within {timeout_s:g} s, {name} {shown}:"
                " look at their output, and whether they can reach that address"
            )
        time.sleep(0.05 if missing else 0)
    return ""


def _disagreement(name: str, rank: int, host: str, theirs: str, ours: str) -> str:
    return (
        f"{name} {rank} on {host} was started with {theirs} and {name} 0 with {ours}: start all of them with the same "
        "command"
    )


def open_store(timeout_s: float = DEFAULT_TIMEOUT_S) -> Store:
    """The store in which the processes of this launch meet; opened once, by process 0 unless torchrun has one.

    Raises:
        UserError: the port is in use, or nobody answers there within ``timeout_s``.
    """
    global _store
    if _store is not None:
        return _store
    from torch.distributed import PrefixStore, TCPStore

    launch = find_launch()
    if launch is not None:
        os.environ.update(MASTER_ADDR=launch.address, MASTER_PORT=str(launch.port))
    address, port = os.environ["MASTER_ADDR"], int(os.environ.setdefault("MASTER_PORT", str(DEFAULT_PORT)))
    rank = launch.rank if launch else int(os.environ["NODE_RANK"])
    opens = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store: Any = TCPStore(
            address, port, is_master=opens, timeout=timedelta(seconds=timeout_s), wait_for_workers=False
        )
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"port {port} on {socket.gethostname()} is in use: give another MASTER_PORT (deepspeed: --master_port, "
                "torchrun: --rdzv-endpoint)"
            ) from error
        raise UserError(
            f"rank {rank} on {socket.gethostname()} gets no answer from rank 0 at {_where()} within {timeout_s:g} s: "
            "look whether it runs and whether a firewall lies between"
        ) from error
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # for init_process_group, and processes Lightning starts
    _store = PrefixStore(f"knowlm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    return _store


def _where() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def agreed(name: str, make: Callable[[], str]) -> str:
    """What ``make`` gives in process 0, in every process of a launch; ``make()`` itself where there is one process.

    For what must be the same everywhere and depends on the moment, such as the name of the run folder.
    """
    launch = find_launch()
    if not (started_by_hand() or (launch is not None and launch.world_size > 1)):
        return make()
    store = open_store()
    if (launch.rank if launch else int(os.environ["NODE_RANK"])) == 0 and not store.check([f"agreed/{name}"]):
        store.set(f"agreed/{name}", make())
    return store.get(f"agreed/{name}").decode()


def start_time(form: str) -> str:
    """The time in the given form, for names of folders: process 0's in all processes of a launch."""
    return agreed(f"start_time/{form}", lambda: datetime.now().strftime(form))


class RankFilter(logging.Filter):
    """Puts the rank in front of messages of processes other than 0."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith("[rank "):
            record.msg = f"[rank {self.rank}] {record.msg}"
        return True


def quiet_other_ranks() -> None:
    """Let processes other than 0 log warnings and errors only, with their rank in front."""
    rank = this_rank()
    if rank == 0:
        return
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers:
        if not any(isinstance(one, RankFilter) for one in handler.filters):
            handler.addFilter(RankFilter(rank))
