"""One module per `capstan` command, or per family of commands that differ in a noun only. Each offers `run`."""
