"""Does synthetic data help a classifier trained on imbalanced chest X-rays?

The modules in the order in which the data flows through them; each imports only from those
above it: config, results, phantom, images, framing, sources, data, models, checkpoint, training,
schedulers, pipeline, twin, synthesis, metrics, sampling, augmentation, comparison,
figures, evaluation, lessons, diagrams, slides, report.
"""

__version__ = "0.1.0"
