"""The control plane: registers consumers and subscriptions and makes the running functions match.

Start it with `python -m control_plane`; `control_plane.app.create_app` is its factory.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("data-distribution-service")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+source"
