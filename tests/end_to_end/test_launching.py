"""Every way of starting a run on several nodes or processes gives the losses of one process, one folder, one log.

"Nodes" are processes of this machine, which differ from real ones in sharing a network interface and a disk.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from src.command import ROOT
from tests.end_to_end.tiny_runs import tiny_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TORCHRUN = ["-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def settings(instructions: Path) -> list[str]:
    """Of a run of 4 steps whose data both processes of a pair share."""
    return tiny_run(
        instructions,
        "data.global_batch_size=4",
        "adapter.dropout=0",
        "trainer.max_steps=4",
        "trainer.val_every_n_steps=2",
        "callbacks.samples=null",
        "callbacks.best=null",
        "rendezvous_timeout_s=120",
    )


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("", 0))
        port: int = server.getsockname()[1]
        return port


def start(arguments: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    environment |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "DS_ACCELERATOR": "cpu", **variables}
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def ended(*processes: subprocess.Popen[str]) -> str:
    """What they said, once all have ended well."""
    said = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)[-6000:]
    return "\n".join(said)


def the_run(root: Path) -> Path:
    """The only run folder below a checkout."""
    (folder,) = (root / "outputs" / "train" / "sft_demo").iterdir()
    return folder


def losses(root: Path) -> list[float]:
    metrics = json.loads((the_run(root) / "metrics.json").read_text())
    return [metrics["train/loss"], metrics["val/loss"]]


@pytest.fixture(scope="module")
def one(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of one process."""
    root = tmp_path_factory.mktemp("one")
    ended(start(["train.py", *settings, "trainer=cpu", f"paths.root_dir='{root}'"]))
    return losses(root)


def is_one_run(root: Path, said: str) -> bool:
    """Whether two processes made one folder and one log, said each line once, and nothing came from rank 1."""
    folder = the_run(root)
    once = ["step 4/4", "validation at step 4"]
    return (
        all(said.count(words) == 1 for words in once)
        and len(re.findall(r"4 steps of 4 × 64 tokens on 2 × cpu", said)) == 1
        and [path.name for path in folder.glob("*.log")] == ["train.log"]
        and (folder / "train.log").read_text().count("step 4/4") == 1
        and (folder / ".hydra" / "config.yaml").is_file()
    )


def test_torchrun_on_two_nodes(settings: list[str], one: list[float], tmp_path: Path) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    torchrun = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
    trainer = ["trainer=fsdp2", "trainer.accelerator=cpu", "trainer.num_nodes=2", "trainer.devices=1"]
    agents = []
    for number in range(2):
        arguments = ["train.py", *settings, *trainer, f"paths.root_dir='{tmp_path}'"]
        agents.append(start([*torchrun, "--local-addr=127.0.0.1", *arguments]))
        time.sleep(2 * (1 - number))  # another second in its clock would be another folder
    said = ended(*agents)
    assert is_one_run(tmp_path, said), said
    assert losses(tmp_path) == pytest.approx(one, abs=1e-5)


def test_two_nodes_started_by_hand(settings: list[str], one: list[float], tmp_path: Path) -> None:
    trainer = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.num_nodes=2", "trainer.devices=1"]
    port, nodes = str(free_port()), []
    for number in range(2):
        variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": str(number)}
        nodes.append(start(["train.py", *settings, *trainer, f"paths.root_dir='{tmp_path}'"], **variables))
        time.sleep(2 * (1 - number))
    said = ended(*nodes)
    assert is_one_run(tmp_path, said), said
    assert losses(tmp_path) == pytest.approx(one, abs=1e-5)


def test_the_deepspeed_launcher(settings: list[str], one: list[float], tmp_path: Path) -> None:
    trainer = ["trainer=deepspeed_zero2", "trainer.accelerator=cpu", "trainer.devices=2"]
    launcher = ["-m", "deepspeed.launcher.runner", "--num_gpus=2", f"--master_port={free_port()}"]
    said = ended(start([*launcher, "train.py", *settings, *trainer, f"paths.root_dir='{tmp_path}'"]))
    assert is_one_run(tmp_path, said), said
    assert losses(tmp_path) == pytest.approx(one, abs=1e-5)


def test_another_number_of_processes_than_the_trainer_wants_is_one_sentence(settings: list[str]) -> None:
    torchrun = start([*TORCHRUN, "--standalone", "--nproc-per-node=1", "train.py", *settings, "trainer.devices=2"])
    said = torchrun.communicate(timeout=300)[0]
    assert torchrun.returncode and "give trainer.num_nodes=1 trainer.devices=1, or start another number" in said
    assert "Traceback" not in said.split("error: ")[1].splitlines()[0]


# Slurm


def slurm_runs() -> bool:
    if shutil.which("sbatch") is None:
        return False
    return subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=20, check=False).returncode == 0


def wait_for(condition: Any, log: Path, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.5)


@pytest.mark.skipif(not slurm_runs(), reason="no Slurm runs here")
def test_a_preempted_slurm_job_goes_on_where_it_stopped(settings: list[str], tmp_path: Path) -> None:
    """Signalled as at a time limit, the job puts itself back into the queue and then trains what was missing."""
    log, steps = tmp_path / "log", 150
    sbatch = ["sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]
    sbatch += ["--time=20", f"--output={log}", "--export=ALL", str(ROOT / "scripts" / "launch" / "pretrain_zh.sbatch")]
    run = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.max_steps={steps}", f"paths.root_dir='{tmp_path}'"]
    run += [f"trainer.val_every_n_steps={steps}", "callbacks.last.every_n_steps=20"]
    environment = {**os.environ, "EXPERIMENT": "sft_demo", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*sbatch, *settings[1:], *run], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    job = done.stdout.strip().split(";")[0]
    try:
        wait_for(lambda: log.exists() and "step 20/" in log.read_text(), log)
        subprocess.run(["scancel", "--signal=USR1", job], check=True)
        wait_for(lambda: "back into the queue" in log.read_text(), log)
        subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], check=True)  # or it waits two minutes
        wait_for(lambda: f"job {job} ended with status 0" in log.read_text(), log)
    finally:
        subprocess.run(["scancel", job], check=False)
    said = log.read_text()
    assert f"job {job}, start 2" in said and "ckpt_path=auto" in said
    assert said.count(f"step 1/{steps}") == 1  # the second start did not begin at the first step
    (folder,) = (tmp_path / "outputs" / "train" / f"sft_demo-{job}").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["steps"] == steps
