"""llama.cpp: the engine for serving on a CPU, with weights of 8 bits or fewer, continuous batching and JSON grammars.

It runs as a child process (`src.generation.engines.llamacpp_server`) that embeds llama.cpp's server from the wheel
``xllamacpp``. Requests go to its ``/completion`` as token ids. The samplers are put in the order that `Decoding`
states: llama.cpp's own order applies the temperature last.
"""

import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.generation.engine import Capability, FinishReason, Request, TokenLogprob
from src.generation.engines.http_engine import HttpEngine, Piece, finite
from src.generation.engines.server_process import ServerProcess
from src.generation.engines.token_bytes import TokenBytes
from src.generation.prompts import EncodedPrompt, PromptEncoder

SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]
RANDOM_SEED = 2**32 - 1  # llama.cpp draws a seed for this one


class LlamaCppEngine(HttpEngine):
    """Serves a GGUF file.

    Args:
        file: the GGUF file.
        prompts: encodes requests with the tokenizer of the model that the file was made of.
        adapters: name and GGUF file of each LoRA adapter.
        max_parallel: requests generated together; each has a key-value cache of the whole context.
        threads: of the processor; None for all cores.
        gpu_layers: layers on a GPU, where the installed xllamacpp was built for one; -1 for all.
    """

    name = "llamacpp"
    path = "/completion"
    capabilities = frozenset(
        {
            Capability.JSON_SCHEMA,
            Capability.GRAMMAR,
            Capability.LOGPROBS,
            Capability.REPETITION_PENALTY,
            Capability.TOP_K,
            Capability.MIN_P,
            Capability.LOGIT_BIAS,
            Capability.IGNORE_EOS,
            Capability.ADAPTERS,
        }
    )

    def __init__(
        self,
        file: Path,
        prompts: PromptEncoder,
        adapters: Mapping[str, Path] | None = None,
        max_parallel: int = 8,
        threads: int | None = None,
        gpu_layers: int = -1,
        start_timeout_s: float = 600.0,
    ):
        if importlib.util.find_spec("xllamacpp") is None:
            raise UserError(
                "engine=llamacpp needs the package xllamacpp: pip install -e '.[cpu]', or give engine=transformers"
            )
        if importlib.util.find_spec("llguidance") is None:
            self.capabilities -= {Capability.JSON_SCHEMA, Capability.GRAMMAR}
        adapters = dict(adapters or {})
        self._bytes = TokenBytes(prompts.tokenizer)
        self._key = secrets.token_urlsafe(24)
        settings = {
            "file": str(file),
            "adapters": [str(path) for path in adapters.values()],
            "context_length": prompts.context_length,
            "max_parallel": max_parallel,
            "threads": threads,
            "gpu_layers": gpu_layers,
        }

        def command(port: int) -> Sequence[str]:
            return [
                sys.executable,
                "-m",
                "src.generation.engines.llamacpp_server",
                json.dumps({**settings, "port": port}),
            ]

        root = Path(__file__).resolve().parents[3]
        server = ServerProcess(
            "llama.cpp",
            command,
            environment={"PYTHONPATH": str(root), "LLAMA_SERVER_KEY": self._key, **_patience()},
            start_timeout_s=start_timeout_s,
        )
        super().__init__(server, prompts, list(adapters), max_parallel)
        server.start()

    def headers(self) -> dict[str, str]:
        """The key of this child, which other users of the machine don't have."""
        return {"Authorization": f"Bearer {self._key}"}

    def body(self, request: Request, prompt: EncodedPrompt) -> dict[str, Any]:
        """See `HttpEngine.body`."""
        how = request.decoding
        body: dict[str, Any] = {
            "prompt": prompt.ids,
            "n_predict": prompt.limit,
            "stream": True,
            "return_tokens": True,
            # a prompt that is partly remembered is computed in other pieces, which can change what a seed draws
            "cache_prompt": how.seed is None,
            "samplers": SAMPLERS,
            "temperature": how.temperature if how.do_sample else 0.0,
            "top_k": how.top_k,
            "top_p": how.top_p,
            "min_p": how.min_p,
            "repeat_penalty": how.repetition_penalty,
            "repeat_last_n": self.context_length,
            "seed": RANDOM_SEED if how.seed is None else how.seed % RANDOM_SEED,
            "ignore_eos": how.ignore_eos,
        }
        if how.logprobs is not None:
            # A stream leaves out tokens that are part of a character, and their log probabilities with them.
            body |= {"n_probs": max(1, how.logprobs), "stream": False, "stop": prompt.stop}
        biases: list[list[float]] = [[token, bias] for token, bias in how.logit_bias.items()]
        body["logit_bias"] = biases + [[token, False] for token in sorted(prompt.banned)]  # False is a ban
        if how.json_schema is not None or how.grammar is not None:
            from src.generation.engines.grammar import grammar_text

            body["grammar"] = grammar_text(how)
        if self.adapters:
            body["lora"] = [
                {"id": number, "scale": float(name == request.adapter)} for number, name in enumerate(self.adapters)
            ]
        return body

    def check(self, request: Request) -> int:
        """See `Engine.check`."""
        tokens = super().check(request)
        if request.decoding.json_schema is not None or request.decoding.grammar is not None:
            from src.generation.engines.grammar import grammar_text

            grammar_text(request.decoding)
        return tokens

    def piece(self, data: dict[str, Any]) -> Piece:
        """See `HttpEngine.piece`."""
        finish: FinishReason | None = None
        if data.get("stop"):
            finish = "length" if data.get("stop_type") == "limit" else "stop"
        logprobs = tuple(self._logprob(entry) for entry in data.get("completion_probabilities") or ())
        text = None if logprobs else data["content"]
        return Piece(data.get("tokens") or (), logprobs, finish, text, data["tokens_predicted"])

    def _logprob(self, entry: dict[str, Any]) -> TokenLogprob:
        tops = tuple(self._logprob(top) for top in entry.get("top_logprobs", ()))
        token = entry["id"]
        return TokenLogprob(self._bytes.text(token), self._bytes[token], finite(entry["logprob"]), tops)


def _patience() -> dict[str, str]:
    """How long threads that wait for each other spin before they sleep, unless the user has said it.

    GNU's OpenMP spins for milliseconds: where other programs want the cores, that is the time of those who are waited
    for, and llama.cpp gets ten times slower. Not to spin at all costs two thirds of the speed of an idle machine. The
    few rounds here lose neither (docs/engines.md).
    """
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ)
    return {} if chosen else {"GOMP_SPINCOUNT": "200"}
