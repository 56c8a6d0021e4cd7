"""Training the counterfactual generator and explaining images with it."""
