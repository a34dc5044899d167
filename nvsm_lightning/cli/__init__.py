"""The command line: a dispatcher that imports nothing heavy, and one file per command."""
