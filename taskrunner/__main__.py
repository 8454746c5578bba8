"""`python -m taskrunner` and the `taskrunner` command: hand over to the command line."""

from taskrunner.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
