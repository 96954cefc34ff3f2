"""Lets ``python -m archibald_rt`` stand for ``archibald-rt``."""

from archibald_rt.cli import main

if __name__ == "__main__":
    main()
