"""How long recovery takes, each system under the same fault at the same moment: ``make bench-recovery``."""
