"""Training: labelled ground, samples, augmentation, the Lightning task and the fit."""
