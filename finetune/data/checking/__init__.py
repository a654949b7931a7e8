"""The data linter: what a file holds, what is wrong with it, what is odd about it."""
