"""train, explain, evaluate: the only wiring."""
