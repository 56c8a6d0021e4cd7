"""The training machinery: devices, seeds, loops, checkpoints. It knows no anomalies."""
