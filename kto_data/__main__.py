"""`python -m kto_data`: the same program as `ktodata`."""

if __name__ == "__main__":  # a spawned worker runs this module too, and has no use for the program
    from kto_data.cli import run

    run()
