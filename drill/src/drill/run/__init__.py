"""One run from the first task to the report."""
