"""The load: which tasks are published, by which processes."""
