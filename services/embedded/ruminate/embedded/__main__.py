"""Start the embedded broker or the embedded node.

python -m ruminate.embedded broker --port N
python -m ruminate.embedded node --port N --models DIR [--host H] [--context-tokens N] [--threads N] …
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from pydantic import ValidationError

from ruminate.embedded.settings import NodeSettings
from ruminate.shared.bus import EXIT_FAULT_IS_OURS
from ruminate.shared.log import configure_logging
from ruminate.shared.process import die_with_parent


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ruminate.embedded", description=__doc__.splitlines()[0] if __doc__ else "")
    parts = parser.add_subparsers(dest="part", required=True)
    broker = parts.add_parser("broker", help="a Kafka-protocol broker in memory")
    broker.add_argument("--port", type=int, default=0, help="port on loopback; 0 takes a free one")
    node = parts.add_parser("node", help="a node that speaks Ollama's API")
    for name, field in NodeSettings.model_fields.items():
        node.add_argument("--" + name.replace("_", "-"), help=f"{field.description} (default {field.default})")
    return parser.parse_args()


def main() -> int:
    """Run what was asked for until it ends."""
    die_with_parent()
    given = {name: value for name, value in vars(_arguments()).items() if value is not None}
    part = given.pop("part")
    if part == "broker":
        from ruminate.embedded.broker import run_broker  # noqa: PLC0415 - the node needs no broker

        return run_broker(given["port"])
    try:
        settings = NodeSettings(**given)
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            sys.stderr.write(f"node: {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}\n")
        return EXIT_FAULT_IS_OURS
    from ruminate.embedded.node import run_node  # noqa: PLC0415 - the broker needs no llama.cpp

    configure_logging(service="node", level=settings.log_level)
    asyncio.run(run_node(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
