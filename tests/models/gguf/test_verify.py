"""A written file is compared with its source; one that is another model is an error and goes away."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.errors import UserError
from src.models.gguf.export import write_gguf
from src.models.gguf.verify import check_memory, fidelity, verification_table, verify_gguf
from tests.models.tiny_decoders import write_byte_tokenizer, write_decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    return write_decoder(root / "model", write_byte_tokenizer(root / "tokenizer"))


@pytest.fixture
def file(folder: Path, tmp_path: Path) -> Path:
    write_gguf(folder, tmp_path / "m.gguf", "q8_0")
    return tmp_path / "m.gguf"


def changed(folder: Path, target: Path, **tensors: torch.Tensor) -> Path:
    """A copy of a model folder with other tensors."""
    target.mkdir()
    for part in folder.iterdir():
        (target / part.name).write_bytes(part.read_bytes())
    save_file({**load_file(folder / "model.safetensors"), **tensors}, target / "model.safetensors")
    return target


def test_equal_tables_are_equally_good() -> None:
    table = torch.log_softmax(torch.randn(5, 7), -1)
    found = fidelity(table, table, torch.tensor([1, 2, 3, 4, 5]))
    assert (found.kl, found.top1, found.tokens) == (0.0, 1.0, 5)
    assert found.perplexity == found.perplexity_source


def test_divergence_and_perplexity_are_the_textbooks() -> None:
    source, file = (torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]]))
    found = fidelity(source.log(), file.log(), torch.tensor([0]))
    expected = 0.5 * torch.log(torch.tensor(2.0)) + 0.5 * torch.log(torch.tensor(2 / 3))
    assert found.kl == pytest.approx(float(expected)) and found.perplexity == pytest.approx(4.0)


def test_the_structure_alone_needs_no_model(folder: Path, file: Path) -> None:
    found = verify_gguf(file, folder, "q8_0", numbers=False)
    assert found.types == {"Q8_0": 16, "F32": 5} and found.fidelity is None and not found.warnings
    written = json.loads(file.with_name("m.gguf.json").read_text())
    assert written["tensors"] == 21 and written["file_type"] == "q8_0"


def test_rows_that_do_not_fit_are_counted_and_said(tmp_path: Path) -> None:
    sizes = {"hidden_size": 48, "head_dim": 16}
    folder = write_decoder(tmp_path / "odd", write_byte_tokenizer(tmp_path / "t"), **sizes)
    write_gguf(folder, tmp_path / "m.gguf", "q8_0")
    found = verify_gguf(tmp_path / "m.gguf", folder, "q8_0", numbers=False)
    assert found.fell_back == {"F16": 12} and "12 of 21 tensors have row lengths" in found.warnings[0]


def test_a_file_of_another_shape_is_an_error_and_goes_away(folder: Path, file: Path, tmp_path: Path) -> None:
    other = write_decoder(tmp_path / "other", folder, intermediate_size=128)
    with pytest.raises(UserError, match=r"was to be written \(6 tensors differ\)"):
        verify_gguf(file, other, "q8_0", numbers=False)
    assert not file.exists() and not file.with_name("m.gguf.json").exists()


def test_a_damaged_file_is_an_error_and_goes_away(folder: Path, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        verify_gguf(file, folder, "q8_0")
    assert not file.exists()


def test_a_model_larger_than_memory_is_refused_before_work_begins(folder: Path, tmp_path: Path) -> None:
    check_memory(folder)
    entry = {"dtype": "F32", "shape": [100_000, 1_000_000], "data_offsets": [0, 400_000_000_000]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + 400_000_000_000)  # takes no room on the disk
    with pytest.raises(UserError, match=r"needs 460 GB of memory .* give verify=false"):
        check_memory(tmp_path)


@pytest.mark.slow
def test_a_good_file_passes_and_its_numbers_are_shown(folder: Path, file: Path) -> None:
    found = verify_gguf(file, folder, "q8_0")
    assert not found.warnings and found.fidelity is not None and found.llama_cpp is not None
    assert 0 < found.fidelity.kl < 5e-3 and found.fidelity.top1 > 0.9
    assert verification_table(found).row_count == 7


@pytest.mark.slow
def test_a_file_of_other_weights_is_an_error_and_goes_away(folder: Path, file: Path, tmp_path: Path) -> None:
    other = changed(folder, tmp_path / "other", **{"lm_head.weight": torch.randn(320, 64)})
    with pytest.raises(UserError, match="it is not the same model any more and was removed"):
        verify_gguf(file, other, "q8_0")
    assert not file.exists()


@pytest.mark.slow
def test_a_file_that_llama_cpp_reads_otherwise_is_noticed(folder: Path, file: Path, tmp_path: Path) -> None:
    """Weights alike and other rotary settings: only what llama.cpp computes tells the two apart."""
    other = changed(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 50.0
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"llama\.cpp chooses \d+ of 48 tokens"):
        verify_gguf(file, other, "q8_0")
    assert not file.exists()


@pytest.mark.slow
def test_a_smollm2_file_stays_close_to_its_source(smollm2_dir: Path, tmp_path: Path) -> None:
    write_gguf(smollm2_dir, tmp_path / "m.gguf", "q8_0")
    found = verify_gguf(tmp_path / "m.gguf", smollm2_dir, "q8_0")
    assert not found.warnings and found.fidelity is not None and found.llama_cpp is not None
    assert found.fidelity.kl < 5e-3 and found.fidelity.top1 > 0.95
    assert found.llama_cpp.agreed >= 46 and found.llama_cpp.texts_equal == found.llama_cpp.texts
