"""Plain network modules; they know nothing of anomalies."""
