"""Commands, one file each; nothing imports them."""
