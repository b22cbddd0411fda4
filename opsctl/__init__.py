"""opsctl: a human approval gate for agent work, kept in git as signed merge commits."""

__version__ = "0.1.0"
