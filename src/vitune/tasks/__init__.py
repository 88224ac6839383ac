"""Tasks: what the verbs of the command line do, as plain functions."""
