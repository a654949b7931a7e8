"""An image that cannot be used, and why."""


class WrongImageError(ValueError):
    """What is wrong with one image, with the code of its page; whoever knows the record adds the place."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason
