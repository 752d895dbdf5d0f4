"""`python -m bidkv.cli`: the same as the `bidkv` command."""

from bidkv.cli import main

main()
