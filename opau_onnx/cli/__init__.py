"""Commands, one file each; nothing imports them."""

__all__: list[str] = []
