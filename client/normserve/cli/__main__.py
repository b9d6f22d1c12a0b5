"""`python -m normserve.cli`."""

from normserve.cli import main

main()
