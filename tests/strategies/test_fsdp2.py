"""FSDP2 on two CPU processes computes what one process computes, saves it, and goes on with it anywhere.

The runs share three starts of processes: one process (`alone`), two (`pair`), and one that goes on with what two saved
(`afterwards`); see `zero_worker`. The references run in the test's own process.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from src.errors import UserError
from src.models.export import export_checkpoint, export_model
from src.models.fsdp2_checkpoint import is_sharded_checkpoint, saved_names
from src.models.load import load_model, load_tokenizer, without_weights
from src.models.spec import ModelSpec
from src.models.zoo import find_model
from src.strategies.fsdp2 import FullyShard, decoder_layers
from src.strategies.sharded_loading import readable_rows
from tests.strategies import zero_worker
from tests.strategies.plan import SAMPLES, STEPS, Plan

HALF = 10


@pytest.fixture(scope="module")
def large(llama_tiny: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 330 MB in which no layer is large."""
    torch.manual_seed(6)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=128,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=8,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    return export_model(model, load_tokenizer(llama_tiny), tmp_path_factory.mktemp("models") / "large")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, pretrained: Path, instructions: Path) -> Plan:
    return Plan(tmp_path_factory.mktemp("runs"), pretrained, instructions, HALF, "save_last=false")


@pytest.fixture(scope="module")
def one(plan: Plan) -> Path:
    """One process without any sharding; returns the folder of the runs."""
    plan.add("one_random", "random", "cpu", 1, samples=SAMPLES)
    plan.add("one_pretrained", "pretrained", "cpu", 1)
    plan.add("one_lora", "lora", "cpu", 1)
    plan.add("one_dora", "dora", "cpu", 1, f"trainer.max_steps={HALF}")
    plan.add("one_short", "pretrained", "cpu", 1, f"trainer.max_steps={HALF}")
    plan.add("one_bf16", "pretrained", "cpu", 1, f"trainer.max_steps={HALF}", "trainer.precision=bf16-mixed")
    zero_worker.carry_out(plan.write("one"))
    return plan.folder


@pytest.fixture(scope="module")
def alone(plan: Plan) -> Path:
    """One process under FSDP2."""
    plan.add("fsdp2_alone", "random", "fsdp2", 1)
    zero_worker.start(plan.write("alone"), processes=1)
    return plan.folder


@pytest.fixture(scope="module")
def pair(plan: Plan, alone: Path, large: Path) -> Path:
    """Two processes."""
    short = f"trainer.max_steps={HALF}"
    exported = {"export": {"folder": str(plan.folder / "exported")}}
    plan.add("fsdp2_large", "model=custom", "fsdp2", 2, "trainer.max_steps=1", f"model.path='{large}'", "adapter=none")
    plan.add("fsdp2_random", "random", "fsdp2", 2, samples=SAMPLES, **exported)
    plan.add("fsdp2_pretrained", "pretrained", "fsdp2", 2, "validate_before=true")
    plan.add("fsdp2_lora", "lora", "fsdp2", 2, export={"folder": str(plan.folder / "exported_lora")})
    plan.add("fsdp2_dora", "dora", "fsdp2", 2, short)
    plan.add("fsdp2_bf16", "pretrained", "fsdp2", 2, short, "trainer.precision=bf16-mixed")
    other = ["trainer.strategy.reshard_after_forward=false", "trainer.strategy.sync_each_micro_batch=true"]
    plan.add("fsdp2_other", "pretrained", "fsdp2", 2, short, *other, "module.activation_checkpointing=full")
    plan.add("fsdp2_replicas", "pretrained", "fsdp2", 2, short, "trainer.strategy.replicas=2")
    for run in ("fsdp2_random", "fsdp2_lora"):
        model = run.removeprefix("fsdp2_")
        plan.add(f"{run}_resumed", model, "fsdp2", 2, f"ckpt_path='{plan.checkpoint(run)}'")
    plan.add("from_one_to_two", "random", "fsdp2", 2, f"ckpt_path='{plan.checkpoint('fsdp2_alone')}'")
    zero_worker.start(plan.write("pair"), processes=2, timeout_s=1500)
    return plan.folder


@pytest.fixture(scope="module")
def afterwards(plan: Plan, pair: Path) -> Path:
    """One process that goes on with checkpoints of two."""
    for run in ("fsdp2_random", "fsdp2_lora"):
        model = run.removeprefix("fsdp2_")
        plan.add(f"{run}_to_one", model, "fsdp2", 1, f"ckpt_path='{plan.checkpoint(run)}'")
    zero_worker.start(plan.write("afterwards"), processes=1)
    return plan.folder


def pieces(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("pieces_*.json"))]


def whole_weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(folder / "weights.pt")
    return found


@pytest.mark.slow
@pytest.mark.timeout(2400)
class TestTwoProcesses:
    @pytest.mark.parametrize("model", ["random", "pretrained", "lora", "dora"])
    def test_losses_are_those_of_one_process(self, one: Path, pair: Path, model: str) -> None:
        alone, both = zero_worker.losses(one / f"one_{model}"), zero_worker.losses(pair / f"fsdp2_{model}")
        assert len(both) == (HALF if model == "dora" else STEPS) and both[0] != both[-1]
        assert both == pytest.approx(alone, abs=1e-5)

    def test_gradient_norms_are_those_of_one_process(self, one: Path, pair: Path) -> None:
        alone = zero_worker.values(one / "one_random", "train/grad_norm")
        both = zero_worker.values(pair / "fsdp2_random", "train/grad_norm")
        assert len(both) == STEPS and both == pytest.approx(alone, rel=1e-4)

    @pytest.mark.parametrize("run", ["fsdp2_other", "fsdp2_replicas"])
    def test_other_layouts_compute_the_same(self, one: Path, pair: Path, run: str) -> None:
        assert zero_worker.losses(pair / run) == pytest.approx(zero_worker.losses(one / "one_short"), abs=1e-5)

    def test_bf16_stays_near_one_process_and_keeps_fp32_pieces(self, one: Path, pair: Path) -> None:
        alone, both = zero_worker.losses(one / "one_bf16"), zero_worker.losses(pair / "fsdp2_bf16")
        exact = zero_worker.losses(one / "one_short")
        assert both != pytest.approx(exact, abs=1e-6)  # it really computes in 16 bit
        assert both == pytest.approx(exact, abs=2e-2) and both == pytest.approx(alone, abs=2e-2)
        assert pieces(pair / "fsdp2_bf16")[0]["dtypes"] == ["torch.float32"]

    def test_each_process_holds_its_share_of_every_weight(self, pair: Path) -> None:
        first, second = pieces(pair / "fsdp2_random")
        assert first["own"] + second["own"] == first["all"] == second["all"]
        assert abs(first["own"] - second["own"]) < 0.01 * first["all"]

    def test_gradients_are_reduced_at_the_last_micro_batch_only(self, pair: Path) -> None:
        assert pieces(pair / "fsdp2_random")[0]["syncs"] == [False, True] * STEPS
        assert pieces(pair / "fsdp2_other")[0]["syncs"] == [True, True] * HALF

    def test_no_process_ever_holds_all_weights_while_loading(self, pair: Path) -> None:
        for found in pieces(pair / "fsdp2_large"):
            whole = 4 * found["all"]
            assert whole > 300e6 and found["own"] < 0.51 * found["all"]
            assert found["peak_bytes"] < 0.75 * whole  # its half, and one group of layers

    def test_tied_embeddings_stay_tied(self, pair: Path) -> None:
        assert "lm_head.weight" not in whole_weights(pair / "fsdp2_random")

    def test_samples_are_those_of_one_process(self, one: Path, pair: Path) -> None:
        alone, both = ((folder / "samples.jsonl").read_text() for folder in (one / "one_random", pair / "fsdp2_random"))
        assert alone == both and len(both.splitlines()) == 2

    @pytest.mark.parametrize("run", ["fsdp2_random", "fsdp2_lora"])
    def test_a_resumed_run_repeats_the_uninterrupted_one_exactly(self, pair: Path, run: str) -> None:
        resumed = pair / f"{run}_resumed"
        assert zero_worker.losses(resumed) == zero_worker.losses(pair / run)[HALF:]
        whole, again = whole_weights(pair / run), whole_weights(resumed)
        assert all(torch.equal(whole[name], again[name]) for name in whole)

    def test_a_run_of_one_process_goes_on_with_two(self, pair: Path) -> None:
        expected = zero_worker.losses(pair / "fsdp2_alone")[HALF:]
        assert zero_worker.losses(pair / "from_one_to_two") == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("run", ["fsdp2_random", "fsdp2_lora"])
    def test_a_run_of_two_processes_goes_on_with_one(self, afterwards: Path, run: str) -> None:
        expected = zero_worker.losses(afterwards / run)[HALF:]
        assert zero_worker.losses(afterwards / f"{run}_to_one") == pytest.approx(expected, abs=1e-5)

    def test_the_export_at_the_end_is_the_weights_in_memory(self, pair: Path) -> None:
        exported, whole = load_file(pair / "exported" / "model.safetensors"), whole_weights(pair / "fsdp2_random")
        assert exported.keys() == whole.keys()
        assert all(torch.equal(exported[name], whole[name]) for name in whole)

    def test_a_checkpoint_of_pieces_becomes_a_model_folder(self, pair: Path, plan: Plan, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        export_checkpoint(find_model("llama_tiny"), plan.checkpoint("fsdp2_random", STEPS), folder)
        exported, whole = load_file(folder / "model.safetensors"), whole_weights(pair / "fsdp2_random")
        assert exported.keys() == whole.keys()
        assert all(torch.equal(exported[name], whole[name]) for name in whole)

    def test_a_checkpoint_of_an_adapter_holds_the_adapter_only(self, pair: Path, plan: Plan) -> None:
        names = [n for n in saved_names(Path(plan.checkpoint("fsdp2_lora"))) if n.startswith("state_dict.")]
        assert names and all("lora_" in name for name in names)
        assert (pair / "exported_lora" / "adapter_model.safetensors").is_file()

    def test_a_checkpoint_of_pieces_is_known_as_one(self, pair: Path, plan: Plan) -> None:
        assert is_sharded_checkpoint(Path(plan.checkpoint("fsdp2_random")))


def test_a_model_without_weights_takes_no_memory_and_keeps_its_ties(llama_tiny: ModelSpec) -> None:
    before = torch.get_rng_state()
    with without_weights():
        model = load_model(llama_tiny)
    assert torch.equal(before, torch.get_rng_state())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in load_model(llama_tiny).named_parameters()
    }
    assert all(parameter.untyped_storage().nbytes() <= 8 for parameter in model.parameters())
    rotary = model.model.rotary_emb.inv_freq
    assert torch.equal(rotary, load_model(llama_tiny).model.rotary_emb.inv_freq)


def test_rows_of_a_safetensors_folder_are_read_where_they_lie(pretrained: Path) -> None:
    whole = load_file(pretrained / "model.safetensors")
    rows = readable_rows(pretrained)
    assert rows.keys() == whole.keys()
    for name, (shape, read) in rows.items():
        assert shape == tuple(whole[name].shape) and torch.equal(read(3, 9), whole[name][3:9])


def test_decoder_layers_are_found_in_order(llama_tiny: ModelSpec) -> None:
    model = load_model(llama_tiny)
    assert decoder_layers(model) == list(model.model.layers)


def test_a_model_without_known_layers_is_refused() -> None:
    with pytest.raises(UserError, match="finds no decoder layers in Linear"):
        decoder_layers(torch.nn.Linear(2, 2))


def test_replicas_must_divide_the_processes() -> None:
    strategy = FullyShard(replicas=3)
    strategy.parallel_devices = [torch.device("cpu")] * 4
    with pytest.raises(UserError, match="replicas=3 does not divide the 4 processes"):
        strategy.setup_environment()


def test_a_checkpoint_of_another_strategy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was not written by trainer=fsdp2: resume with the trainer that wrote it"):
        saved_names(tmp_path)
