"""Counterfactual generators: one file per architecture."""
