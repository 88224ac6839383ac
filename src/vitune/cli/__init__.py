"""The command line: one file per verb, and what they share.

Only what `--help` needs is imported here and in the verbs' files; torch and timm come with the work itself.
"""

from vitune.cli.entry import main

__all__ = ["main"]
