"""The command line, `biomamba`: one file a command, `main` chooses."""
