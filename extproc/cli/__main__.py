"""``python -m extproc.cli`` is ``dropout``."""

from extproc.cli.main import main

if __name__ == "__main__":
    main()
