"""The developers' commands: `python -m features new|remove|contract|merge|psql|reset|seed`."""

from kernel.dev.scaffold.__main__ import main

if __name__ == "__main__":
    main()
