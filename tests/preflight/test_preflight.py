"""What a run would take, from its config: the plan, the verdict and the advice."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from src.command import ROOT, group_options, rewrite_arguments
from src.errors import UserError
from src.preflight.advice import advice, fits, single_changes
from src.preflight.gpus import GIB, find_gpu, most_like
from src.preflight.memory import estimate_memory
from src.preflight.preflight import Preflight, estimate, preflight, refuse
from src.shards.format import ShardWriter
from src.shards.manifest import Counts, Manifest
from src.shards.packing import pack

Compose = Callable[[Sequence[str]], DictConfig]

ZH = "experiment=pretrain_zh"
NO_CHECKPOINTING = "module.activation_checkpointing=none"


def found(compose_train: Compose, *overrides: str) -> Preflight:
    return estimate(compose_train(overrides))


def refused(compose_train: Compose, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        refuse(found(compose_train, *overrides), None)
    return str(error.value)


def test_pretrain_zh_fits_its_machines(compose_train: Compose) -> None:
    run = found(compose_train, ZH)
    assert (run.plan.strategy, run.plan.world_size, run.plan.accumulation) == ("zero3", 24, 3)
    assert run.plan.tokens_per_step == 1440 * 1024 and run.shape.parameters == 13_015_864_320
    assert fits(run.memory, run.device) and run.device.name == "V100-32GB"
    assert 100 < run.time.total < 260  # KnowLM's step, which is slower than it must be, took 260 s
    refuse(run, None)


def test_steps_follow_from_rows_and_epochs(compose_train: Compose) -> None:
    run = found(compose_train, ZH, "preflight.rows_per_epoch=144000", "trainer.max_epochs=2")
    if not list(Path(ROOT, "data/shards/zh_en_code").glob("*/manifest.json")):
        assert run.steps == 200 and run.hours == pytest.approx(200 * run.time.total / 3600)
    assert found(compose_train, ZH, "trainer.max_steps=7", "trainer.max_epochs=null").steps == 7


def test_the_price_is_of_all_devices(compose_train: Compose) -> None:
    run = found(compose_train, ZH, "trainer.max_steps=10", "trainer.max_epochs=null", "preflight.price_per_gpu_hour=2")
    assert run.dollars == pytest.approx(10 * run.time.total / 3600 * 24 * 2)


def test_a_stated_utilisation_sets_the_time(compose_train: Compose) -> None:
    half, whole = (found(compose_train, ZH, f"preflight.mfu={mfu}").time.compute for mfu in (0.2, 0.4))
    assert half == pytest.approx(2 * whole)


def test_what_does_not_fit_is_refused_with_what_would(compose_train: Compose) -> None:
    message = refused(compose_train, ZH, NO_CHECKPOINTING)
    assert message.startswith("llama2_13b needs") and "on each V100-32GB and 31.7 are there" in message
    assert "data.micro_batch_size=" in message and "module.activation_checkpointing=full" in message
    assert "\n" not in message


def test_what_is_advised_fits(compose_train: Compose) -> None:
    message = refused(compose_train, ZH, NO_CHECKPOINTING)
    advised = re.findall(r"(\S+=\S+) \(", message)
    assert len(advised) > 1
    for override in advised:
        changed = found(compose_train, ZH, NO_CHECKPOINTING, override)
        assert fits(changed.memory, changed.device), override


def test_the_largest_micro_batch_that_fits_is_advised(compose_train: Compose) -> None:
    run = found(compose_train, ZH, NO_CHECKPOINTING)
    size = re.search(r"data\.micro_batch_size=(\d+)", advice(run.shape, run.plan, run.device))
    assert size
    larger = [s for s in range(int(size[1]) + 1, 20) if 60 % s == 0]
    for one in larger:
        changed = found(compose_train, ZH, NO_CHECKPOINTING, f"data.micro_batch_size={one}")
        assert not fits(changed.memory, changed.device)


def test_changes_are_put_together_where_none_is_enough(compose_train: Compose) -> None:
    run = found(
        compose_train,
        ZH,
        "trainer=deepspeed_zero2",
        "trainer.devices=8",
        "trainer.num_nodes=1",
        NO_CHECKPOINTING,
        "preflight.gpu=V100-16GB",
    )
    said = advice(run.shape, run.plan, run.device)
    assert said.startswith("no single change is enough, these together are: ")
    overrides = said.partition("are: ")[2].partition(" (")[0].split()
    assert len(overrides) > 1


def test_what_can_never_fit_says_so(compose_train: Compose) -> None:
    run = found(compose_train, ZH, "trainer=gpu", "preflight.gpu=T4-16GB", "data.global_batch_size=20")
    assert "take a smaller model or GPUs with more memory" in advice(run.shape, run.plan, run.device)


def test_advised_groups_exist(compose_train: Compose) -> None:
    run = found(compose_train, ZH, "trainer=ddp", "trainer.devices=8", NO_CHECKPOINTING)
    lora = found(compose_train, "experiment=sft_general", "module.dtype=float32")
    said = [one for which in (run, lora) for one, _ in single_changes(which.plan, which.device)]
    for group, option in re.findall(r"(trainer|adapter)=(\w+)", " ".join(said)):
        assert option in group_options(group)


def test_lora_on_one_gpu_fits_as_its_experiment_says(compose_train: Compose) -> None:
    run = found(compose_train, "experiment=sft_general")
    assert run.plan.adapter is not None and run.memory.trained_parameters == 62_586_880
    assert 24 * GIB < run.memory.total < run.device.memory == find_gpu("A100-40GB").memory
    assert "module.dtype=bfloat16" in refused(compose_train, "experiment=sft_general", "module.dtype=float32")


def test_host_memory_is_checked_where_it_is_given(compose_train: Compose) -> None:
    run = found(compose_train, ZH)
    refuse(run, 500)
    with pytest.raises(UserError, match=r"GiB of host memory on each node and preflight\.host_memory_gib=64"):
        refuse(run, 64)


def test_the_cpu_is_a_device_too(compose_train: Compose) -> None:
    run = found(compose_train, "model=llama_tiny", "trainer.max_steps=3")
    assert run.device.name == "CPU" and run.plan.strategy == "single" and run.steps == 3
    assert run.memory.total < GIB


def test_strategies_of_the_configs_are_known(compose_train: Compose) -> None:
    gpus = ["preflight.gpu=A100-80GB", "trainer.devices=4", "model=llama2_7b", "data.global_batch_size=32"]
    for trainer, strategy in [("ddp", "ddp"), ("deepspeed_zero2", "zero2"), ("deepspeed_zero3", "zero3")]:
        assert found(compose_train, f"trainer={trainer}", *gpus).plan.strategy == strategy
    plan = found(compose_train, "trainer=fsdp2", *gpus, "trainer.strategy.offload=true").plan
    assert plan.strategy == "fsdp2" and plan.offload_optimizer and plan.whole_gradients
    assert found(compose_train, "trainer=gpu", *gpus, "trainer.devices=1").plan.strategy == "single"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["preflight.gpu=V101"], "preflight.gpu=V101 is not known"),
        (["data.micro_batch_size=7"], "can't be shared by 24 devices"),
        (["data.max_length=5000", "model.architecture.max_position_embeddings=4096"], "is more than the context"),
        (["trainer.strategy=xla"], "trainer.strategy=xla can't be estimated"),
        (["trainer.devices=none"], "must be auto or a whole number"),
    ],
)
def test_mistakes_are_said(compose_train: Compose, overrides: list[str], message: str) -> None:
    overrides = [f"+{one}" if "max_position" in one else one for one in overrides]
    with pytest.raises(UserError, match=re.escape(message)):
        found(compose_train, ZH, *overrides)


def test_rows_are_counted_in_shards_that_are_here(compose_train: Compose, tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 500)
    write_shards(tmp_path / "shards" / "demo", lengths)
    run = found(compose_train, "model=llama_tiny", "data.sources={demo:1}", f"mix.shards_dir='{tmp_path / 'shards'}'")
    assert run.rows_per_epoch == len(pack(lengths, run.plan.length))


def write_shards(folder: Path, lengths: np.ndarray) -> None:
    folder.mkdir(parents=True)
    with ShardWriter(folder / "train-00000", np.uint16) as writer:
        for length in lengths:
            writer.add_document([np.arange(length)])
    counts = Counts(len(lengths), len(lengths), int(lengths.sum()), int(lengths.sum()))
    Manifest(folder.name, "any", "", 300, 60, "uint16", splits={"train": counts}).save(folder)


@pytest.mark.parametrize("argument", ["preflight=true", "--preflight"])
def test_preflight_is_switched_on_like_a_flag(argument: str) -> None:
    assert list(rewrite_arguments([argument, "model=llama_tiny"])) == ["preflight.enabled=true", "model=llama_tiny"]


def test_the_report_is_written_and_read_back(compose_train: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = compose_train([ZH])
    preflight(cfg)
    report = json.loads(Path(cfg.paths.output_dir, "preflight.json").read_text())
    run = estimate(cfg)
    assert report["memory"]["total"] == estimate_memory(run.shape, run.plan).total and report["memory"]["fits"]
    assert report["run"]["tokens_per_step"] == 1_474_560
    printed = capsys.readouterr().out
    assert "13.02 B" in printed and "fits in the 31.70 GiB" in printed


@pytest.mark.slow
def test_the_command_ends_with_status_two_where_nothing_fits(tmp_path: Path) -> None:
    command = [sys.executable, "train.py", ZH, "preflight=true", NO_CHECKPOINTING, "logger=csv"]
    ended = subprocess.run([*command, f"hydra.run.dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2 and "does NOT fit" in ended.stdout
    assert ended.stderr.splitlines()[-1].startswith("error: llama2_13b needs")
    assert json.loads((tmp_path / "preflight.json").read_text())["memory"]["fits"] is False


@pytest.mark.parametrize(
    ("calls_itself", "gib", "entry"),
    [
        ("NVIDIA A100-SXM4-80GB", 79, "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", 39, "A100-40GB"),
        ("Tesla V100-SXM2-32GB", 31, "V100-32GB"),
        ("NVIDIA H100 80GB HBM3", 79, "H100-80GB"),
    ],
)
def test_a_gpu_that_is_here_is_known_by_its_own_name(calls_itself: str, gib: int, entry: str) -> None:
    assert most_like(calls_itself, gib * GIB).name == entry


@pytest.mark.parametrize("calls_itself", ["NVIDIA A40", "NVIDIA B200", "NVIDIA L40"])
def test_a_gpu_that_is_not_in_the_table_is_not_taken_for_another(calls_itself: str) -> None:
    with pytest.raises(UserError, match=f"{calls_itself}, is not in the table"):
        most_like(calls_itself, 45 * GIB)


def test_what_the_run_would_refuse_is_refused(compose_train: Compose) -> None:
    fsdp2 = [ZH, "trainer=fsdp2", "trainer.devices=8", "trainer.num_nodes=3"]
    with pytest.raises(UserError, match="fsdp2 has no fp16"):
        found(compose_train, *fsdp2)
    assert found(compose_train, *fsdp2, "preflight.gpu=A100-80GB").plan.precision == "bf16-mixed"


def test_nodes_may_be_left_to_the_launcher(compose_train: Compose) -> None:
    run = found(compose_train, ZH, "trainer.num_nodes=auto")
    assert run.plan.nodes == 1 and any("1 node assumed" in note for note in run.notes)


def test_host_memory_counts_whole_models_that_processes_load(compose_train: Compose) -> None:
    whole = 4 * 13_015_864_320
    ddp = found(compose_train, ZH, "trainer=ddp", "trainer.devices=8", "trainer.num_nodes=3")
    assert ddp.memory.host > 8 * whole
    zero_3 = found(compose_train, ZH, "trainer=deepspeed_zero3", "trainer.devices=8", "trainer.num_nodes=3")
    assert zero_3.memory.host < whole
