"""Parts of a model go onto devices in order, whole, and within what each may hold; the estimate is what is loaded."""

import shutil

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from src.errors import UserError
from src.models.devices import visible_gpus
from src.models.load import load_for_generation, load_model
from src.models.placement import (
    GB,
    Allocation,
    Part,
    assign,
    cache_bytes,
    device_limits,
    listed,
    model_on_meta,
    parts_of,
    place,
)
from src.models.spec import ModelSpec
from src.models.zoo import find_model

INPUT_IDS = torch.tensor([[504, 3575, 282, 4649, 314, 7042, 28, 284, 260, 3575, 282, 4729, 314]])


@pytest.fixture(scope="module")
def thirteen_billion():
    """The architecture of KnowLM's models without weights."""
    return model_on_meta(find_model("knowlm_13b_zhixi"))


def devices_of(shares):
    return {part.name: share.device for share in shares for part in share.parts}


def test_13_billion_parameters_in_16_bits_fit_on_three_gpus_of_10_gb(thirteen_billion):
    parts = parts_of(thirteen_billion, "float16", "none", tokens=2048)
    assert sum(part.weights for part in parts) == pytest.approx(2 * 13_015_864_320, rel=1e-6)
    shares = assign(parts, {0: 10 * GB, 1: 10 * GB, 2: 10 * GB})
    assert [listed(part.name for part in share.parts) for share in shares] == [
        "embed_tokens, layers 0-13",
        "layers 14-27",
        "layers 28-39, norm, rotary_emb, lm_head",
    ]
    assert all(share.total <= share.limit and share.brought_in == 0 for share in shares)
    assert sum(share.cache for share in shares) == 2048 * 40 * 2 * 40 * 128 * 2  # tokens, layers, k and v, heads, bytes


def test_every_parameter_has_a_device_and_no_layer_is_split(thirteen_billion):
    parts = parts_of(thirteen_billion, "float16", "none", tokens=0)
    names = [part.name for part in parts]
    for parameter, _ in thirteen_billion.named_parameters():
        assert sum(parameter.startswith(f"{name}.") for name in names) == 1
    assert [name for name in names if "layers" in name] == [f"model.layers.{index}" for index in range(40)]


def test_without_a_cache_the_map_is_that_of_accelerate(thirteen_billion):
    from accelerate import infer_auto_device_map

    parts = parts_of(thirteen_billion, "float16", "none", tokens=0)
    largest = max(part.weights for part in parts)
    limits = {0: 9 * GB, 1: 11 * GB, "cpu": 4 * GB, "disk": 30 * GB}
    # accelerate keeps room on both GPU 0 and the CPU for a layer that is brought in, we keep it on GPU 0
    theirs = infer_auto_device_map(
        thirteen_billion,
        max_memory={0: limits[0], 1: limits[1], "cpu": limits["cpu"] + largest},
        no_split_module_classes=thirteen_billion._no_split_modules,
        dtype=torch.float16,
    )
    ours = devices_of(assign(parts, limits))
    assert {name: device for name, device in theirs.items() if "layers" in name} == {
        name: device for name, device in ours.items() if "layers" in name
    }


def test_what_does_not_fit_is_said_with_numbers(thirteen_billion):
    parts = parts_of(thirteen_billion, "float16", "none", tokens=2048)
    with pytest.raises(UserError) as error:
        assign(parts, {0: 10 * GB, "cpu": 8 * GB}, "zhixi")
    text = str(error.value)
    assert "zhixi does not fit: it needs 27.71 GB (26.03 GB weights, 1.68 GB KV cache)" in text
    assert "GPU 0 10.00 GB, CPU 8.00 GB" in text and "without a place: layers 26-39, norm" in text


@pytest.mark.parametrize(("quantization", "on_cpu", "gigabytes"), [("8bit", False, 13.3), ("4bit", True, 8.4)])
def test_a_quantised_model_is_estimated_by_its_bits(thirteen_billion, quantization, on_cpu, gigabytes):
    parts = parts_of(thirteen_billion, "float16", quantization, tokens=0, on_cpu=on_cpu)
    assert sum(part.weights for part in parts) / GB == pytest.approx(gigabytes, abs=0.1)


def test_what_lies_elsewhere_has_its_cache_and_room_on_the_main_device():
    parts = [Part("embed", 10), *(Part(f"layers.{index}", 100, cache=7) for index in range(6)), Part("head", 10)]
    shares = {share.device: share for share in assign(parts, {0: 352, "cpu": 300, "disk": 300})}
    assert [part.name for part in shares[0].parts] == ["embed", "layers.0", "layers.1"]
    assert (shares[0].cache, shares[0].brought_in) == (42, 100)
    assert shares["cpu"].cache == shares["disk"].cache == 0


def test_a_tied_head_goes_to_the_device_of_the_embedding():
    parts = [Part("embed", 50), Part("layers.0", 100), Part("layers.1", 100), Part("head", 0, tied_to="embed")]
    assert devices_of(assign(parts, {0: 150, 1: 150})) == {"embed": 0, "layers.0": 0, "layers.1": 1, "head": 0}


sizes = st.integers(0, 50)


@given(
    st.lists(st.tuples(sizes, sizes), min_size=1, max_size=12),
    st.lists(st.integers(0, 300), max_size=3),
    st.integers(1, 400),
    st.integers(0, 400),
    st.lists(st.tuples(sizes, st.integers(0, 11)), max_size=2),
)
def test_parts_stay_in_order_and_every_device_within_its_limit(layers, gpus, cpu, disk, heads):
    untied = [Part(str(index), weights, cache) for index, (weights, cache) in enumerate(layers)]
    tied = [
        Part(f"head{index}", weights, tied_to=str(owner % len(layers))) for index, (weights, owner) in enumerate(heads)
    ]
    parts = untied + tied
    limits = {index: limit for index, limit in enumerate(gpus) if limit} | {"cpu": cpu, "disk": disk}
    try:
        shares = assign(parts, limits)
    except UserError:
        assume(False)
    placed, order = devices_of(shares), list(limits)
    assert all(placed[part.name] == placed[part.tied_to] for part in tied)
    ranks = [order.index(placed[part.name]) for part in untied]
    assert ranks == sorted(ranks) and ranks[0] == 0
    assert all(share.total <= share.limit for share in shares)
    assert sum(share.cache for share in shares) == sum(part.cache for part in parts)


@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=12), st.integers(0, 5))
def test_one_device_takes_a_model_that_fits_and_refuses_one_byte_less(layers, spare):
    parts = [Part(str(index), weights, cache) for index, (weights, cache) in enumerate(layers)]
    need = sum(map(sum, layers))
    assert assign(parts, {"cpu": need + spare})[0].total == need
    if need:
        with pytest.raises(UserError, match="does not fit"):
            assign(parts, {"cpu": need - 1})


@pytest.mark.parametrize("amount", [-1, "ten", None, float("nan"), True])
def test_an_amount_that_is_no_number_of_gb_is_refused(amount):
    with pytest.raises(UserError, match=r"allocate\[1\] is .*: give GB"):
        Allocation(gpus=[10, amount])


@pytest.mark.skipif(visible_gpus() > 2, reason="has three GPUs")
def test_gpus_that_are_not_there_are_counted():
    with pytest.raises(UserError, match=rf"allocate=\[10,10,10\] names 3 GPUs and this machine has {visible_gpus()}"):
        place(find_model("knowlm_13b_zhixi"), Allocation(gpus=[10, 10, 10]), "float16")


@pytest.mark.skipif(visible_gpus() > 0, reason="has GPUs")
def test_auto_without_gpus_is_host_memory(llama_tiny: ModelSpec):
    placement = place(llama_tiny, Allocation(gpus="auto"), "float32")
    assert placement.devices == ["cpu"] and "no GPU is visible" in str(placement)
    assert device_limits(Allocation(gpus=(), cpu_gb=1.5, disk_gb=2)) == {"cpu": 1_500_000_000, "disk": 2 * GB}


def test_the_estimate_is_what_the_loaded_model_takes(llama_tiny: ModelSpec):
    model = load_model(llama_tiny)
    parts = parts_of(model_on_meta(llama_tiny), "float32", "none", tokens=5)
    assert sum(part.weights for part in parts) == model.get_memory_footprint()
    cache = model(torch.arange(5)[None], use_cache=True).past_key_values
    assert sum(part.cache for part in parts) == sum(
        t.nbytes for layer in cache.layers for t in (layer.keys, layer.values)
    )
    assert cache_bytes(model.config, "bfloat16") == cache_bytes(model.config, "float32") // 2


def test_quantised_weights_do_not_spill(smollm2: ModelSpec):
    with pytest.raises(UserError, match="quantization=8bit keeps all weights where they are computed"):
        place(smollm2, Allocation(gpus=(), cpu_gb=0.2, disk_gb=1, context=64), "float32", "8bit")


def test_names_of_layers_are_told_in_short():
    names = ["model.embed_tokens", "model.layers.3", "model.layers.4", "model.norm", "lm_head"]
    assert listed(names) == "embed_tokens, layers 3-4, norm, lm_head"
    assert (listed(["model.layers.7"]), listed([])) == ("layer 7", "nothing")


def test_weights_of_bin_files_are_written_to_a_folder_before_they_stay_on_disk(tiny_spec: ModelSpec, tmp_path):
    whole = load_model(tiny_spec).eval()
    folder = tmp_path / "bin"
    shutil.copytree(whole.config._name_or_path, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(whole.state_dict(), folder / "pytorch_model.bin")
    spec, amounts = ModelSpec(path=str(folder)), {"gpus": (), "cpu_gb": 0.00023, "disk_gb": 1, "context": 8}
    with pytest.raises(UserError, match=r"has \.bin files.*set offload_folder="):
        load_for_generation(spec, placement=place(spec, Allocation(**amounts), "float32"))
    placement = place(spec, Allocation(**amounts, offload_folder=str(tmp_path / "away")), "float32")
    assert placement.device_map["model.layers.0"] == "disk"
    spilled, _ = load_for_generation(spec, placement=placement)
    ids = torch.tensor([[5, 60, 7, 200, 11, 12]])
    with torch.no_grad():
        assert torch.equal(spilled(ids).logits, whole(ids).logits)
    assert list((tmp_path / "away").glob("*layers.0*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_left_on_disk_compute_exactly_what_they_do_in_memory(smollm2: ModelSpec, dtype: str):
    placement = place(smollm2, Allocation(gpus=(), cpu_gb=0.2, disk_gb=0.5, context=64), dtype)
    on_disk = [name for name, device in placement.device_map.items() if device == "disk"]
    assert len([name for name in on_disk if "layers" in name]) > 5
    spilled, _ = load_for_generation(smollm2, dtype=dtype, placement=placement)
    whole, _ = load_for_generation(smollm2, dtype=dtype)
    parameters = dict(spilled.named_parameters())
    assert all(parameter.is_meta for name, parameter in parameters.items() if name.startswith(tuple(on_disk)))
    with torch.no_grad():
        assert torch.equal(spilled(INPUT_IDS).logits, whole(INPUT_IDS).logits)


@pytest.mark.slow
def test_an_adapter_is_refused_on_a_model_that_spills(smollm2: ModelSpec, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    placement = place(smollm2, Allocation(gpus=(), cpu_gb=0.4, disk_gb=0.5, context=64), "float32")
    with pytest.raises(UserError, match=r"partly on disk: merge it first"):
        load_for_generation(smollm2, tmp_path, placement=placement)
