"""The command line: a folder with a model becomes one GGUF file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ruminate.trainer.export.model import export_model
from ruminate.trainer.plan import Encoding


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(prog="python -m ruminate.trainer.export", description="Write a model's folder as a GGUF file.")
    parser.add_argument("folder", type=Path, help="folder with config.json, safetensors and tokenizer.json")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--encoding", choices=get_args(Encoding), default="f16", help="how the weights are stored")
    parser.add_argument("--context-tokens", type=int, help="stretch the context to so many tokens by YaRN")
    given = parser.parse_args(arguments)
    export_model(given.folder, {given.encoding: given.out}, name=given.folder.name, context_tokens=given.context_tokens)


if __name__ == "__main__":
    main()
