"""What the scheduler of beat is made of: when a tick is due, and how an entry is kept in Redis."""
