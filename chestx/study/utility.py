"""What a linear classifier makes of synthetic features: is it fooled, does it learn from them?"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def _classifier() -> Pipeline:
    """Logistic regression with a strong, fixed penalty: there are more features than images."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


def real_or_made(
    real: torch.Tensor, made: torch.Tensor, patients: list[str],
    made_patients: list[str] | None = None, seed: int = 0,
) -> float:  # fmt: skip
    """AUROC of a classifier that tells ``made`` features (n, d) from ``real`` ones (m, d).

    0.5 is the goal of a generator, 1 means that it is always caught. The mean over five folds
    (fewer if there are fewer patients) that share no patient; each synthetic image counts as a
    patient of its own, real ones in ``made`` bear ``made_patients``. Raises ValueError for fewer
    than two patients.
    """
    own = made_patients or [f"synthetic {i}" for i in range(len(made))]
    splits = min(5, len(set(patients)), len(set(own)))
    if splits < 2:
        raise ValueError("folds without a shared patient need two patients on each side; give more")
    x = torch.cat([real, made]).numpy()
    y = np.repeat([0, 1], [len(real), len(made)])
    folds = StratifiedGroupKFold(splits, shuffle=True, random_state=seed)
    scores = cross_val_score(
        _classifier(), x, y, groups=[*patients, *own], cv=folds, scoring="roc_auc",
        error_score="raise",
    )  # fmt: skip
    return float(scores.mean())


def transfer_auroc(
    train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor]
) -> float:
    """AUROC on ``test`` of a classifier fitted to ``train``, each (features of class 0, class 1).

    With synthetic images in ``train`` alone: train on synthetic, test on real (Esteban et al.
    2017, arXiv:1706.02633); in ``test`` alone: the reverse. Compare at equal numbers alone. If
    one class alone is synthetic, as here, whatever gives synthesis away also names that class, so
    that training on it teaches the giveaway.
    """
    (x, y), (unseen, truth) = (
        (torch.cat(sides).numpy(), np.repeat([0, 1], [len(side) for side in sides]))
        for sides in (train, test)
    )
    return float(roc_auc_score(truth, _classifier().fit(x, y).decision_function(unseen)))
