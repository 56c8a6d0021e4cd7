"""The network bodies that a detector may have."""
