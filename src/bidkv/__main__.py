"""`python -m bidkv`: the `bidkv` command."""

from bidkv.cli import main

if __name__ == "__main__":
    main()
