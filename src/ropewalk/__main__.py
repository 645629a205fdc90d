"""``python -m ropewalk``: the same as the command ``ropewalk``."""

from ropewalk.cli.main import main

main()
