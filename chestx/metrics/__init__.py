"""Metrics: of classifiers here; each is a pure function of labels and probabilities."""
