"""`python -m kto_data`: the same program as `ktodata`."""

from kto_data.cli import run

if __name__ == "__main__":
    run()
