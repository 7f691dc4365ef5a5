"""`python -m rumor` is `rumor`."""

from rumor.cli.main import main

if __name__ == "__main__":
    main()
