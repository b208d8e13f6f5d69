"""`python -m initaudit` is the same as `initaudit`."""

from initaudit.cli import main

main()
