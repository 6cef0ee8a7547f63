"""Ray Train over a point-in-time training set: preparation, the loop, the model, its checkpoint."""
