"""What consumers, workflows and rules may be called."""

from typing import Annotated, Final

from msgspec import Meta

NAME: Final = r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?"
"""A name, as a part of a regular expression."""

Name = Annotated[str, Meta(pattern=rf"^{NAME}$(?!\n)", max_length=64)]
