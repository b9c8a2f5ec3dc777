"""A small training run on two processes that a fault can be put into; started by `test_watchdog`.

``python watched_run.py FAULT``, where the fault comes on rank 1 in step 3; each process prints its id.
"""

import ctypes
import logging
import os
import signal
import sys
import time

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from src.callbacks.watchdog import Watchdog

FAULT = sys.argv[1]
STEPS = 200 if FAULT in {"slow", "none"} else 6
HEARTBEAT_S, TIMEOUT_S = 1.0, 6.0


def rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


class Rows(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> torch.Tensor:
        if rank() == 1 and index == 2 and FAULT == "data":
            time.sleep(3600)
        if rank() == 1 and FAULT == "slow":
            time.sleep(0.05)
        return torch.ones(4)


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if rank() == 1 and batch_idx == 2:
            if FAULT == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            if FAULT == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if FAULT == "locked":
                ctypes.PyDLL(None).sleep(3600)  # keeps Python's lock, so that no thread of this process runs
            if FAULT == "error":
                raise ValueError("a weight has gone missing")
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format=f"[{rank()}] %(message)s")
    print(f"process {os.getpid()}", flush=True)
    torch.manual_seed(0)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,  # every process reads every row
        max_steps=STEPS,
        callbacks=[Watchdog(timeout_s=TIMEOUT_S, heartbeat_s=HEARTBEAT_S, window=20)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(), DataLoader(Rows()))
    print("finished", flush=True)


if __name__ == "__main__":
    main()
