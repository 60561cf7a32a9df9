"""``python -m detseg3d``: the same as the command ``detseg3d``."""

from __future__ import annotations

from detseg3d.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
