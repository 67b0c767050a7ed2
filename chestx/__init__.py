"""Does synthetic data help a classifier trained on imbalanced chest X-rays?

The folders are the flow, from radiographs to the report; imports run one way. README.md beside this
file says in which order to read them.
"""

__version__ = "0.1.0"
