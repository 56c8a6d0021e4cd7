"""train, explain, evaluate, doctor: the only wiring."""
