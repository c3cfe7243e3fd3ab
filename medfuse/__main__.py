"""`python -m medfuse`, for launchers such as torchrun."""

from medfuse.cli import main

if __name__ == "__main__":  # not in loader processes, which import this module again
    main()
