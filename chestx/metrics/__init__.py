"""Metrics: of classifiers and of distributions of images, as pure functions."""
