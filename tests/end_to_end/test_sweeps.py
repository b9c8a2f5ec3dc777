"""Sweeps with each launcher and sweeper: every job has its folder, a failed one takes no other with it, one table."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from src.command import CONFIGS, ROOT, group_options
from src.sweeps import Job, read_jobs, swept_settings, write_table
from tests.end_to_end.tiny_runs import ENVIRONMENT, tiny_run

BROKEN = "optimizer.lr must be a positive number"
PLUGINS = ("hydra_joblib_launcher", "hydra_submitit_launcher", "hydra_optuna_sweeper")

needs_plugins = pytest.mark.skipif(
    any(importlib.util.find_spec(f"hydra_plugins.{name}") is None for name in PLUGINS)
    if importlib.util.find_spec("hydra_plugins")
    else True,
    reason="the extra sweeps is not installed",
)


def run(*arguments: str, folder: Path, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
    """A sweep started in a folder that is not the checkout."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", *arguments, f"hydra.sweep.dir='{folder}'"]
    return subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT, cwd=folder.parent, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="module")
def tiny(instructions: Path) -> list[str]:
    return tiny_run(
        instructions,
        "data.validation_rows=1",
        "trainer.max_steps=1",
        "trainer.val_every_n_steps=1",
        "save_last=false",
        "callbacks.samples=null",
        "callbacks.export=null",
        "callbacks.best=null",
    )


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@needs_plugins
@pytest.mark.slow
def test_jobs_of_joblib_run_and_a_failed_one_is_said(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = run("hparams_search=joblib", *tiny, "optimizer.lr=1e-4,fast", folder=folder)
    good, bad = table(folder)
    assert good["optimizer.lr"] == "0.0001" and good["error"] == "" and bad["error"].startswith(BROKEN)
    metrics = json.loads((folder / "0" / "metrics.json").read_text())
    assert float(good["val/loss"]) == float(good["value"]) == metrics["val/loss"]
    assert bad["value"] == bad["val/loss"] == ""
    assert done.returncode == 1 and f"error: 1 of 2 jobs failed, the first one: {BROKEN}" in done.stderr
    assert "best: optimizer.lr=0.0001" in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert (folder / "0" / "loss_curve.png").exists() and BROKEN in (folder / "1" / "train.log").read_text()


@needs_plugins
@pytest.mark.slow
def test_jobs_of_submitit_run_also_on_two_processes(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    both = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1,2"]
    done = run("hparams_search=submitit", "hydra/launcher=submitit_local", *tiny, *both, folder=folder)
    assert done.returncode == 0, done.stderr
    one, two = table(folder)
    assert (one["trainer.devices"], two["trainer.devices"]) == ("1", "2")
    assert float(one["val/loss"]) == pytest.approx(float(two["val/loss"]), abs=1e-5)
    assert float(one["consumed/samples"]) == float(two["consumed/samples"]) == 2


@needs_plugins
@pytest.mark.slow
def test_a_search_of_optuna_goes_on_where_it_stopped(tiny: list[str], tmp_path: Path) -> None:
    storage = f"hydra.sweeper.storage=sqlite:///{tmp_path}/studies/study.db"
    search = ["hparams_search=optuna", storage, *tiny, "optimizer.weight_decay=choice(0.0)"]
    first = run(*search, "hydra.sweeper.n_trials=2", folder=tmp_path / "first")
    assert first.returncode == 0, first.stderr
    rows = table(tmp_path / "first")
    tried = [float(row["optimizer.lr"]) for row in rows]
    assert len(set(tried)) == 2 and all(1e-4 <= rate <= 3e-3 for rate in tried)
    best = min(rows, key=lambda row: float(row["val/loss"]))
    result = yaml.safe_load((tmp_path / "first" / "optimization_results.yaml").read_text())
    assert result["best_params"]["optimizer.lr"] == pytest.approx(float(best["optimizer.lr"]))
    assert result["best_value"] == pytest.approx(float(best["val/loss"]))

    second = run(*search, "hydra.sweeper.n_trials=1", folder=tmp_path / "second")
    assert second.returncode == 0, second.stderr
    from optuna import load_study

    study = load_study(study_name="sft_demo", storage=f"sqlite:///{tmp_path}/studies/study.db")
    values = [float(row["val/loss"]) for row in rows + table(tmp_path / "second")]
    assert [trial.value for trial in study.trials] == pytest.approx(values)


@needs_plugins
def test_a_sweep_of_several_processes_is_refused(tmp_path: Path) -> None:
    launcher = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    from src.sweeps import SweepTable

    for name in ("joblib", "submitit", "optuna"):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose("train", [f"hparams_search={name}"], return_hydra_config=True)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as refused:
            for key, value in launcher.items():
                patch.setenv(key, value)
            SweepTable().on_multirun_start(cfg)
        assert refused.value.code == 2


@needs_plugins
@pytest.mark.parametrize("name", sorted({*group_options("hparams_search")} - {"wandb"}))
def test_every_search_says_its_command_and_composes(name: str) -> None:
    text = (CONFIGS / "hparams_search" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"python train.py -m hparams_search={name} " in text
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [f"hparams_search={name}"], return_hydra_config=True)
    assert cfg.optimized_metric == "val/loss"
    assert name in cfg.hydra.launcher._target_ or name in cfg.hydra.sweeper._target_


@pytest.mark.slow
def test_the_command_of_a_weights_and_biases_agent_trains(tiny: list[str], tmp_path: Path) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((CONFIGS / "hparams_search" / "wandb.yaml").read_text(encoding="utf-8"))
    chosen = {"optimizer.lr": {"value": 0.0007}, "adapter.r": {"value": 4}}
    assert sweep["parameters"].keys() == chosen.keys() and sweep["metric"]["name"] == "val/loss"
    values = create_sweep_command_args({"args": chosen})
    values |= {"interpreter": [sys.executable], "program": [str(ROOT / sweep["program"])]}
    command: list[str] = []
    for part in create_sweep_command(sweep["command"]):
        command += values[part[2:-1]] if part.startswith("${") else [part]
    more = [argument for argument in tiny if not argument.startswith("experiment=")]
    done = subprocess.run(
        [*command, *more, f"hydra.run.dir='{tmp_path}'"], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr
    composed = yaml.safe_load((tmp_path / ".hydra" / "config.yaml").read_text())
    assert (composed["optimizer"]["lr"], composed["adapter"]["r"]) == (0.0007, 4)
    assert sweep["metric"]["name"] in json.loads((tmp_path / "metrics.json").read_text())


def test_the_table_has_a_column_for_what_differs_and_for_each_metric(tmp_path: Path) -> None:
    jobs = [
        Job(0, "0", {"experiment": "a", "adapter.r": "4"}, "", 1.0, 3.5, {"val/loss": 3.5}),
        Job(1, "1", {"experiment": "a", "adapter.r": "8"}, "it broke, badly", 2.0, None, {}),
        Job(2, "2", {"experiment": "a", "adapter.r": "8", "+seed": "1"}, "", 2.0, 3.25, {"val/loss": 3.25, "x": 1.0}),
    ]
    assert swept_settings(jobs) == ["adapter.r", "+seed"]
    assert swept_settings(jobs[:1]) == ["experiment", "adapter.r"]
    write_table(tmp_path, jobs)
    rows = table(tmp_path)
    assert [row["val/loss"] for row in rows] == ["3.5", "", "3.25"]
    assert [row["+seed"] for row in rows] == ["", "", "1"]
    assert rows[1]["error"] == "it broke, badly"
    assert read_jobs(tmp_path) == []
