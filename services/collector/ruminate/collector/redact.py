"""What becomes of a text: `python -m ruminate.collector.redact [--tenant NAME] < text`, as RUMINATE_PRIVACY says."""

from __future__ import annotations

import argparse
import sys

from pydantic import ValidationError

from ruminate.collector.names import load_names
from ruminate.collector.privacy.redaction import Privacy
from ruminate.collector.settings import CollectorSettings
from ruminate.shared.bus import EXIT_FAULT_IS_OURS
from ruminate.shared.settings import problems_of


def main() -> int:
    """Print the text with its placeholders, and on standard error how many of each kind."""
    arguments = argparse.ArgumentParser(prog="python -m ruminate.collector.redact", description="Redact standard input.")
    arguments.add_argument("--tenant", default="default", help="whose policy holds")
    tenant = arguments.parse_args().tenant
    try:
        settings = CollectorSettings().privacy
    except ValidationError as error:
        sys.stderr.writelines(f"{problem}\n" for problem in problems_of(error))
        return EXIT_FAULT_IS_OURS
    found = Privacy(settings, load_names(settings)).redact_text(sys.stdin.read(), tenant=tenant)
    sys.stdout.write(found.text)
    sys.stderr.writelines(f"{kind}: {count}\n" for kind, count in sorted(found.counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
