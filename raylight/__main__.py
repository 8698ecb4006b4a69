"""``python -m raylight``: the command ``raylight``."""

from raylight.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
