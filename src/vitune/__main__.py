"""`python -m vitune`: the same as the command `vitune`."""

import sys

from vitune.cli import main

sys.exit(main())
