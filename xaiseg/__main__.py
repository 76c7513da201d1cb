"""``python -m xaiseg`` is the command line."""

from xaiseg.cli import main

if __name__ == "__main__":
    main()
