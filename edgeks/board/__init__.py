"""Boards over SSH: reaching one, what it is, what it lacks, and the environment that edgeks puts on it."""
