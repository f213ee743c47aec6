"""`python -m cli` is `cni-cleanup`."""

from cli.program import main

main()
