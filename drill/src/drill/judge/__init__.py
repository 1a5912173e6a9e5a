"""What a run's ledger proves."""
