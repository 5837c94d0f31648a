"""`python -m kto_train …`, `torchrun … -m kto_train …`: the command `ktodata train …`."""

from __future__ import annotations

import sys

from kto_data.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
