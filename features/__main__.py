"""The developers' commands: `python -m features new|remove|contract|merge|psql|reset`."""

from kernel.dev.scaffold.__main__ import main

if __name__ == "__main__":
    main()
