"""The routes, one file for each API; each has ``routes(gateway)``."""
