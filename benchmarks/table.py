"""The table of this project: every method on the tasks of the suite `local`, what wins where, what does not work.

    python -m benchmarks.table [--collect RUN] [--check]

Reads the finished trials in benchmarks/results/local and writes docs/evidence.md and the README's table; both are
computed from the trials alone, so that trials which are still missing are listed as such. `--collect RUN` first takes
over what has ended in RUN, the folder of `vitune bench local DATA --out RUN`, which may still be running; it may be
given for several. `--check` compares with the files that are there and changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.local_trials import collect, read_finished
from benchmarks.table_page import page, short
from vitune.durable import replace_file
from vitune.errors import VituneError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "local"
PAGE = ROOT / "docs" / "evidence.md"
README = ROOT / "README.md"
MARKS = ("<!-- evidence:start -->", "<!-- evidence:end -->")


def with_section(text: str, section: str) -> str:
    """A page with what stands between its two marks replaced.

    Args:
        text: The page.
        section: What is to stand there.
    """
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return f"{before}{MARKS[0]}\n{section}{MARKS[1]}{after}"


def written(results: Path = RESULTS) -> dict[Path, str]:
    """The files that the trials make, with their contents.

    Args:
        results: Folder of the trials.

    Raises:
        RunError: If there is none.
    """
    found = read_finished(results)
    return {PAGE: page(found, PAGE), README: with_section(README.read_text(), short(found))}


def main(words: list[str] | None = None) -> int:
    """Run the command.

    Args:
        words: Its arguments; those of the process if not given.

    Returns:
        The exit code: 2 for a mistake of the user, 1 where `--check` finds a difference.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect", type=Path, action="append", default=[], metavar="RUN")
    parser.add_argument("--check", action="store_true", help="compare with the files that are there")
    options = parser.parse_args(words)
    try:
        for run in options.collect:
            finished, failed = collect(run, RESULTS)
            print(f"{run}: {finished} finished final trials, {failed} failed trials")
        files = written()
    except VituneError as error:
        print(f"benchmarks.table: {error}", file=sys.stderr)
        return 2
    if options.check:
        stale = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} differs: run python -m benchmarks.table")
        return 1 if stale else 0
    for path, text in files.items():
        replace_file(path, lambda temporary, text=text: temporary.write_text(text))
        print(f"{path.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
