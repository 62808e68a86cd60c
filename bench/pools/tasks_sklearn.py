"""A task that needs scikit-learn."""

import numpy as np
from sklearn.tree import DecisionTreeClassifier


def leaves(count):
    """Fit a tree of so many leaves; return how many it has."""
    x = np.arange(count, dtype=float).reshape(-1, 1)
    return int(DecisionTreeClassifier().fit(x, x.ravel()).get_n_leaves())
