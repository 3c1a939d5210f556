"""Which short ways are off: in tests alone, that ask whether each is equal to the long one."""


class Switches(set[str]):
    """Names out of `plan` (and the switchboard that leads there), `statements`, `rows`."""


OFF = Switches()
