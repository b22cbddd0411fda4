"""The command line: one file a command; each parses, calls the workspace once, and renders."""
