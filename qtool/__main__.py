"""`python -m qtool` is the same as `qtool`."""

from qtool.cli.main import main

main()
