"""Check golden files: one JSON line each; exit code 1 if one is not ok."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.parity.harness import check


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python -m tests.parity FILE...", file=sys.stderr)
        return 2
    results = [check(Path(argument)) for argument in arguments]
    for result in results:
        print(json.dumps(result))
    return 0 if all(result["ok"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
