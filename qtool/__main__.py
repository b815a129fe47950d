"""`python -m qtool` is the same as `qtool`."""

from __future__ import annotations

from qtool.cli import main

main()
