"""The drill's own test: a drill that stays green without a safeguard is blind."""
