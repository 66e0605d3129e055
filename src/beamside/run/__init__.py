"""A live run, whatever the science. Knows no physics."""
