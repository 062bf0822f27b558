"""Probability models: likelihoods for training, integer tables and networks for coding."""
