"""Which short ways are off. Only tests turn one off, to compare it with the library's way."""


class Switches(set[str]):
    """Some of the names `plan` (with the switchboard), `statements` and `rows`."""


OFF = Switches()
