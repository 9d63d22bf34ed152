"""Sharing groups and plans: which layers read one kernel."""
