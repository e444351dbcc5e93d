"""Creating a model: from pushed GGUF blobs or from another model, with what the request lays over it.

Gives Ollama's statuses as it goes and leaves nothing behind when it fails: the name changes last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import orjson

from ruminate.embedded.decide import Refused, check_go_template, parse_name
from ruminate.embedded.library import Layer, Library, Manifest
from ruminate.embedded.requests import CreateRequest
from ruminate.embedded.weights import CannotQuantize, NotGguf, check_quantization, quantize_q8_0

Status = dict[str, Any]


def check(request: CreateRequest) -> None:
    """Refuse what can be refused before anything is looked up."""
    for name, digest in (*(request.files or {}).items(), *(request.adapters or {}).items()):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not name:
            raise Refused(400, "file path must be relative")
        if not digest:
            raise Refused(400, "invalid digest format")
    try:
        parse_name(request.name_of_model)
    except Refused:
        raise Refused(400, "invalid model name") from None


async def create(library: Library, request: CreateRequest) -> AsyncIterator[Status]:
    """Do what `check` has let through, a status at a time; Refused where it cannot be done."""
    async with library.shelf:
        layers: list[Layer] = []
        async for step in _sources(library, request):
            if isinstance(step, Layer):
                layers.append(step)
            else:
                yield step
        fresh: set[str] = set()
        if request.quantize:
            weights = next(layer for layer in layers if layer.kind == "model")
            async for step in _quantize(library, weights, request.quantize.upper()):
                if isinstance(step, Layer):
                    layers[layers.index(weights)] = step
                    fresh.add(step.digest)
                else:
                    yield step
        layers = _lay_over(library, layers, request, fresh)
        for layer in layers:
            yield {"status": f"{'creating new' if layer.digest in fresh else 'using existing'} layer {layer.digest}"}
        yield {"status": "writing manifest"}
        name = library.existing(parse_name(request.name_of_model))
        config, _ = library.store("config", _config(library, layers))
        library.name(Manifest(config=config, layers=tuple(layers)), name)
    yield {"status": "success"}


async def _sources(library: Library, request: CreateRequest) -> AsyncIterator[Layer | Status]:
    if request.from_:
        try:
            name = library.existing(parse_name(request.from_))
        except Refused:
            raise Refused(400, "invalid model name") from None
        manifest = library.manifest(name)
        if manifest is None:
            yield {"status": "pulling manifest"}
            # Where Ollama would ask a registry: a node has none.
            raise Refused(500, "pull model manifest: file does not exist")
        for layer in manifest.layers:
            yield layer
    elif request.files is not None:
        async for step in _ggufs(library, request.files, "model", bad_blob=500):
            yield step
    else:
        raise Refused(400, "neither 'from' or 'files' was specified")
    if request.adapters is not None:
        if len(request.adapters) > 1:
            raise Refused(400, "only one adapter is currently supported")
        async for step in _ggufs(library, request.adapters, "adapter", bad_blob=400):
            yield step


async def _ggufs(library: Library, files: Mapping[str, str], kind: str, *, bad_blob: int) -> AsyncIterator[Layer | Status]:
    if not any(name.endswith(".gguf") for name in files):
        raise Refused(400, "unknown type")
    for _, digest in sorted(files.items()):
        yield {"status": "parsing GGUF"}
        try:
            layer = library.layer(kind, digest)
            header = await asyncio.to_thread(library.header, digest)
        except Refused as refused:
            raise Refused(bad_blob, refused.error) from None
        except NotGguf:
            raise Refused(400, "supplied file was not in GGUF format") from None
        if header.kind != kind:
            raise Refused(400, f"supplied file is a GGUF {header.kind}, where a {kind} belongs")
        yield layer


async def _quantize(library: Library, weights: Layer, wanted: str) -> AsyncIterator[Layer | Status]:
    source = library.header(weights.digest)
    try:
        if not check_quantization(wanted, source):
            yield weights
            return
    except CannotQuantize as error:
        raise Refused(500, str(error)) from None
    status = f"quantizing {source.file_type} model to {wanted}"
    yield {"status": status}
    loop = asyncio.get_running_loop()
    reports: asyncio.Queue[Status | None] = asyncio.Queue()

    def report(done: int, tensors: int) -> None:
        step = {"status": status, "total": weights.size, "completed": weights.size * done // tensors}
        loop.call_soon_threadsafe(reports.put_nowait, step)

    partial = library.partial()
    try:
        work = asyncio.create_task(asyncio.to_thread(quantize_q8_0, library.blob(weights.digest), partial, progress=report))
        work.add_done_callback(lambda _: reports.put_nowait(None))
        while (step := await reports.get()) is not None:
            yield step
        await work
        yield {"status": "verifying conversion"}
        yield library.layer("model", await asyncio.to_thread(library.shelve, partial))
    finally:
        partial.unlink(missing_ok=True)


def _lay_over(library: Library, layers: list[Layer], request: CreateRequest, fresh: set[str]) -> list[Layer]:
    def put(kind: str, content: bytes, *, beside: bool = False) -> None:
        layer, new = library.store(kind, content)
        if not beside:
            layers[:] = [other for other in layers if other.kind != kind]
        layers.append(layer)
        if new:
            fresh.add(layer.digest)

    if request.template:
        check_go_template(request.template)
        put("template", request.template.encode())
    if request.system:
        put("system", request.system.encode())
    for text in [request.license_] if isinstance(request.license_, str) else request.license_ or []:
        put("license", text.encode(), beside=True)
    former = next((layer for layer in layers if layer.kind == "params"), None)
    parameters = orjson.loads(library.blob(former.digest).read_bytes()) if former else {}
    parameters |= request.parameters or {}
    if parameters:
        put("params", orjson.dumps(parameters, option=orjson.OPT_SORT_KEYS))
    if request.messages:
        put("messages", orjson.dumps([message.model_dump(exclude_defaults=True) for message in request.messages]))
    return layers


def _config(library: Library, layers: list[Layer]) -> bytes:
    header = library.header(next(layer.digest for layer in layers if layer.kind == "model"))
    return orjson.dumps(
        {
            "model_format": "gguf",
            "model_family": header.architecture,
            "model_families": [header.architecture],
            "file_type": header.file_type,
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    )
