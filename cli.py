"""`python cli.py …` from a checkout: the same program as the installed `ktodata`."""

from kto_data.cli import run

if __name__ == "__main__":
    run()
