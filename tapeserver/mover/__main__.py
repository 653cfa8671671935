"""`python -m tapeserver.mover --fd N`: the mover, with its session at the inherited descriptor N."""

from __future__ import annotations

import argparse

from tapeserver.mover.process import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="capstan-mover", description="Works one drive for a tapeserver.")
    parser.add_argument("--fd", type=int, required=True, help="the inherited descriptor of the session's socket pair")
    run(parser.parse_args().fd)
