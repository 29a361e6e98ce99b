"""The `ssd` command: commands, completion, and all that reaches the terminal."""
