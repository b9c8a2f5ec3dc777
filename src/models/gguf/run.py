"""A GGUF file in llama.cpp, in a process of its own: what it answers and how sure it is, token by token.

``python -m src.models.gguf.run FILE`` takes a JSON object of questions on stdin and prints one of answers. The process
is there because llama.cpp ends the program it is in when a file makes no sense to it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from src.errors import UserError

TIMEOUT_S = 3600.0
ROOT = Path(__file__).resolve().parents[3]


def llama_cpp_installed() -> bool:
    """Whether the package that carries llama.cpp is there."""
    return importlib.util.find_spec("xllamacpp") is not None


def ask_llama_cpp(
    file: Path, prompts: list[list[int]], texts: list[str], new_tokens: int, adapter: Path | None = None
) -> dict[str, Any]:
    """Greedy continuations of prompts (token ids) and the token ids of texts.

    Returns:
        ``continuations``: for each prompt the tokens with their natural logarithms of probability (None where a token
        ends inside a character), as pairs;
        ``tokens``: ids of each text without special tokens; ``opening``: ids of an empty text with them.

    Raises:
        UserError: llama.cpp is not installed, or does not load the file.
    """
    if not llama_cpp_installed():
        raise UserError("llama.cpp is not installed (package xllamacpp): pip install -e '.[cpu]', or give verify=false")
    questions = {"prompts": prompts, "texts": texts, "new_tokens": new_tokens, "adapter": adapter and str(adapter)}
    environment = {"GOMP_SPINCOUNT": "200", **os.environ}  # threads that spin for long crawl beside other work
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "src.models.gguf.run", str(file)],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment,
    )
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        reason = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise UserError(f"llama.cpp cannot use '{file.name}': {reason.split('error loading model: ')[-1].strip()}")
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def main() -> None:
    """Answer the questions on stdin about the file that is the first argument."""
    import xllamacpp

    questions = json.load(sys.stdin)
    longest = max((len(prompt) for prompt in questions["prompts"]), default=0)
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx = longest + questions["new_tokens"] + 8
    params.n_parallel = 1
    params.port = 0
    params.verbosity = 1
    params.warmup = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    # half-precision keys and values, the default, would hide small differences of the weights
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if questions["adapter"]:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = questions["adapter"], 1.0
        params.lora_adapters = [info]
    server = xllamacpp.Server(params)
    continuations = [_continue(server, prompt, questions["new_tokens"]) for prompt in questions["prompts"]]
    tokens = [_tokens(server, text, special=False) for text in questions["texts"]]
    opening = _tokens(server, "", special=True)
    print(json.dumps({"continuations": continuations, "tokens": tokens, "opening": opening}), flush=True)
    os._exit(0)


def _continue(server: Any, prompt: list[int], new_tokens: int) -> list[tuple[int, float | None]]:
    """Greedy tokens, one request each: within a longer answer the server leaves out those that end inside a character.

    Of such a token it tells the id but no probability.
    """
    chosen: list[tuple[int, float | None]] = []
    for _ in range(new_tokens):
        request = {"prompt": [*prompt, *(token for token, _ in chosen)], "n_predict": 1, "temperature": 0}
        answer = _post(server, "/completion", {**request, "n_probs": 1, "return_tokens": True})
        if not answer["tokens"]:
            break
        probabilities = answer.get("completion_probabilities")
        chosen.append((answer["tokens"][0], probabilities[0]["logprob"] if probabilities else None))
    return chosen


def _tokens(server: Any, text: str, special: bool) -> list[int]:
    request = {"content": text, "add_special": special, "parse_special": False}
    tokens: list[int] = _post(server, "/tokenize", request)["tokens"]
    return tokens


def _post(server: Any, route: str, request: dict[str, Any]) -> Any:
    from urllib.request import ProxyHandler, Request, build_opener

    body = json.dumps(request).encode()
    header = {"Content-Type": "application/json"}
    opener = build_opener(ProxyHandler({}))  # the address is on this machine
    with opener.open(Request(server.listening_address + route, body, header), timeout=TIMEOUT_S) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
