"""The `capstan` command and the supervisor of one machine: imports everything, is imported by nothing of ours."""
