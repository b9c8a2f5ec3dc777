"""The child process of `LlamaCppEngine`: llama.cpp's server on a loopback port, until it is told to end.

``python -m src.generation.engines.llamacpp_server '{"file": …, "port": …}'``; the key that requests must bring is
in the variable ``LLAMA_SERVER_KEY``.
"""

import json
import os
import signal
import sys
import threading


def main() -> None:
    import xllamacpp

    settings = json.loads(sys.argv[1])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parallel = settings["max_parallel"]
    params = xllamacpp.CommonParams()
    params.model.path = settings["file"]
    params.n_parallel = parallel
    params.n_ctx = settings["context_length"] * parallel  # llama.cpp gives each slot its share
    params.kv_unified = False
    params.n_predict = -1
    params.ctx_shift = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"] or cores
    params.n_gpu_layers = settings["gpu_layers"]
    params.cache_ram_mib = 0  # prompts of ended requests stay in their slot, not in a store besides
    params.n_threads_http = 2 * parallel + 8  # a stream holds one
    params.endpoint_metrics = True
    params.ui = False
    params.port = settings["port"]
    params.hostnames = ["127.0.0.1"]
    params.api_keys = [os.environ["LLAMA_SERVER_KEY"]]
    params.use_jinja = False
    params.verbosity = 1
    infos = []
    for path in settings["adapters"]:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = path, 1.0
        infos.append(info)
    params.lora_adapters = infos
    params.lora_init_without_apply = True
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    server = xllamacpp.Server(params)
    print(f"llama.cpp answers on {server.listening_address}", flush=True)
    end.wait()
    os._exit(0)  # the answers that still run are cut off; llama.cpp's own shutdown would wait for them


if __name__ == "__main__":
    main()
