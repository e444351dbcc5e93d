"""One llama.cpp server in a process of its own: its address on stdout once the model is loaded, its end at the end of stdin.

Apart from the node, because loading holds Python's global lock for as long as it takes, and because llama.cpp ends the
whole process where it meets a GGUF that it cannot bear.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import xllamacpp

from ruminate.shared.process import die_with_parent

SMALL_MODEL_BYTES = 64 << 20
"""Under this size a second thread costs more in waiting for each other than it saves in work."""


def main(weights: str, adapter: str | None, context_tokens: int, embeds: bool, threads: int) -> None:
    """Load, say where, and serve until stdin ends."""
    params = xllamacpp.CommonParams()
    params.model.path = weights
    params.n_ctx = context_tokens
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = -1
    params.fit_params = False
    params.cache_ram_mib = 0
    params.ctx_shift = not embeds
    params.endpoint_slots = False
    params.ui = False
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = adapter, 1.0
        params.lora_adapters = [lora]
    if embeds:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    small = Path(weights).stat().st_size < SMALL_MODEL_BYTES
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or (1 if small else os.cpu_count() or 1)
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    # Without a farewell: llama.cpp would wait for connections that nobody reads any more.
    os._exit(0)


if __name__ == "__main__":
    die_with_parent()
    main(**json.loads(sys.argv[1]))
