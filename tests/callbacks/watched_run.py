"""Small training runs of two processes with a fault put into each; started by `test_watchdog`.

``python watched_run.py FOLDER FAULT…`` runs each fault in two processes of its own, all at the same time. What a
process says goes to ``FOLDER/FAULT.RANK.log`` and how all of them ended to ``FOLDER/ends.json``. Processes are forked,
because importing the libraries takes longer than all the rest.
"""

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from src.callbacks.watchdog import Watchdog

HEARTBEAT_S, TIMEOUT_S = 1.0, 6.0
LIMIT_S = 150  # what has not ended by then has failed


class Rows(Dataset[torch.Tensor]):
    def __init__(self, fault: str, steps: int) -> None:
        self.fault, self.steps = fault, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.fault == "data" and index == 2:
            time.sleep(3600)
        if self.fault == "slow":
            time.sleep(0.1)
        return torch.ones(4)


class Model(L.LightningModule):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.layer = fault, torch.nn.Linear(4, 4)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if batch_idx == 2:
            if self.fault == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "locked":
                ctypes.PyDLL(None).sleep(3600)  # keeps Python's lock, so that no thread of this process runs
            if self.fault == "error":
                raise ValueError("a weight has gone missing")
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def train(fault: str, rank: int) -> None:
    """The run of one process; rank 1 has the fault, both have ``together``, rank 0 has ``first``."""
    mine = {"together": "data", "first": "stopped" if rank == 0 else "none"}.get(fault, fault if rank == 1 else "none")
    steps = 60 if fault in {"slow", "none"} else 6
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        max_steps=steps,
        callbacks=[Watchdog(TIMEOUT_S, heartbeat_s=HEARTBEAT_S, slow_factor=5, window=20)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(mine), DataLoader(Rows(mine, steps)))


def start(folder: Path, fault: str, rank: int, port: int) -> int:
    """Fork a process for one rank; the number of the process."""
    process = os.fork()
    if process:
        return process
    log = os.open(folder / f"{fault}.{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    try:
        train(fault, rank)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    folder, faults = Path(sys.argv[1]), sys.argv[2:]
    running = {}
    for fault in faults:
        port = free_port()
        for rank in (0, 1):
            running[start(folder, fault, rank, port)] = f"{fault}.{rank}"
    ends, begin = {}, time.monotonic()
    while running and time.monotonic() < begin + LIMIT_S:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            seconds = time.monotonic() - begin
            ends[running.pop(process)] = {"status": os.waitstatus_to_exitcode(status), "seconds": seconds}
        if "first.1" in ends and (stopped := [p for p, name in running.items() if name == "first.0"]):
            os.kill(stopped[0], signal.SIGKILL)  # as its launcher would do
        time.sleep(0.05)
    for process in running:
        os.kill(process, signal.SIGKILL)
    (folder / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main()
