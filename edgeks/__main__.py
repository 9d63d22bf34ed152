"""`python -m edgeks`."""

from edgeks.cli import main

main()
