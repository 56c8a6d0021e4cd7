"""Can an explanation be believed? What independent checks say of each counterfactual, and a verdict from them."""
