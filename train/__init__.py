"""Training: data, losses, the loop, recipes, and the export to integer weights files."""
