"""`ddsctl` without an installation: `.venv/bin/python scripts/ddsctl.py --help`."""

from control_plane.cli.main import main

if __name__ == "__main__":
    main()
