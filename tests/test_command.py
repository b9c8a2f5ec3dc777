"""What the command layer adds to Hydra: help, rewritten arguments, one-sentence errors."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from src.command import CONFIGS, help_text, leading_comment, rewrite_arguments, sentence
from src.errors import UserError


def test_help_is_the_comment_of_the_config_and_its_groups() -> None:
    text = help_text("train", "train.py")
    assert text.startswith("Train a language model") and "python train.py --cfg job" in text
    assert "adapter=none: dora, lora, none" in text and "hydra=" not in text


def test_package_lines_are_not_part_of_a_comment() -> None:
    assert leading_comment("# @package _global_\n# What it is.\n\nkey: 1\n# not this\n") == "What it is."


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("model=smollm2_135m", ["model=smollm2_135m"]),
        ("model=zjunlp/OneKE", ["model=custom", "model.path='zjunlp/OneKE'"]),
        ("model=a b/my model", ["model=custom", "model.path='a b/my model'"]),
        ("model=it's.gguf", ["model=custom", r"model.path='it\'s.gguf'"]),
        ("model=llama_tiny,llama_15m", ["model=llama_tiny,llama_15m"]),
        ("model=nonsense", ["model=nonsense"]),
        ("--list", ["list=true"]),
        ("--dry-run=false", ["dry_run=false"]),
        ("--cfg", ["--cfg"]),
        ("--local_rank=1", []),
        ("-m", ["-m"]),
        ("optimizer.lr=1e-4", ["optimizer.lr=1e-4"]),
        ("adapter.r=4,8", ["adapter.r=4,8"]),
        ("instruction=抽取三元组", ["instruction='抽取三元组'"]),
        ("prompt=Who wrote it? (1998)", ["prompt='Who wrote it? (1998)'"]),
        ("prompt=red, green, blue", ["prompt='red, green, blue'"]),
        ("prompt='quoted, already'", ["prompt='quoted, already'"]),
        ("input=it's 春風", [r"input='it\'s 春風'"]),
        ("text=Ada, Bo and Cy", ["text='Ada, Bo and Cy'"]),
        ("schema=person_org_place", ["schema.source=person_org_place"]),
        ("--schema=my types.yaml", ["schema.source=my types.yaml"]),
        ("schema=[人物,地点]", ["schema.source=['人物','地点']"]),
        ("~callbacks.samples", ["~callbacks.samples"]),
        ("+logger.wandb.tags=[a,b]", ["+logger.wandb.tags=[a,b]"]),
        ("records=数据/测试.jsonl", ["records='数据/测试.jsonl'"]),
    ],
)
def test_arguments_are_rewritten(given: str, wanted: list[str]) -> None:
    assert list(rewrite_arguments([given])) == wanted


def test_a_model_path_in_quotes_means_the_same(tmp_path: Path) -> None:
    assert list(rewrite_arguments([f"model='{tmp_path}'"])) == ["model=custom", f"model.path='{tmp_path}'"]


def raised(overrides: list[str]) -> Exception:
    with pytest.raises(Exception) as caught, initialize_config_dir(str(CONFIGS), version_base="1.3"):
        compose("train", overrides=overrides)
    return caught.value


def test_a_wrong_option_names_the_closest_and_all_others() -> None:
    said = str(sentence(raised(["trainer=gpus"])))
    assert said.startswith("trainer=gpus does not exist (did you mean gpu?); choose one of: cpu, ddp, deepspeed_zero")


def test_a_wrong_key_is_named() -> None:
    assert str(sentence(raised(["optimizer.learning_rate=1"]))).startswith("'optimizer.learning_rate' is not a setting")


def test_a_sentence_of_ours_is_kept_from_wherever_it_was_raised() -> None:
    try:
        try:
            raise UserError("lr is 0: give a positive one")
        except UserError as error:
            raise RuntimeError("in call to target") from error
    except RuntimeError as error:
        assert sentence(error) == "lr is 0: give a positive one"


def test_faults_of_ours_have_no_sentence() -> None:
    assert sentence(KeyError("x")) is None


TEXTS = ["公式 \\frac{a}{b}", "路径 C:\\数据\\", "it's 中文 \\'", "行\\n"]
TEXTS += ["${x}", "a\\${x}", "\\\\${oc.env:HOME} $5 {b}", "C:\\a\\ ${"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_arrives_as_it_was_typed(text: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert compose("extract", overrides=list(rewrite_arguments([f"text={text}"]))).text == text
