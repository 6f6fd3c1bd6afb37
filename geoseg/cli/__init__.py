"""The command line: one file a command. The only home of click, progress bars and exit codes."""
