"""Runs on the disk: their folders, locks and files, and the tables of many."""
