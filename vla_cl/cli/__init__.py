"""The command line `vla-cl`: one file a command."""
