"""Two versions of one classifier: is a tumour malignant, from measurements of its cells.

The data are scikit-learn's bundled Wisconsin breast cancer set: 569 patients. One half trains, the other half is
what the users ask about, so accuracies are measured on patients that neither version has seen.
"""

from __future__ import annotations

from typing import Any, Final

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from extproc.demo.versions import Patient

SPLIT_SEED: Final = 7


class Classifier:
    """One trained version."""

    def __init__(self, version: str) -> None:
        data = load_breast_cancer()
        train, _, truth, _ = _split(data)
        self._columns: list[int] = list(range(len(data.feature_names)))
        self._model: Any
        if version == "1":
            self._columns = [list(data.feature_names).index(name) for name in ("mean radius", "mean texture")]
            self._model = make_pipeline(StandardScaler(), LogisticRegression())
        else:
            self._model = GradientBoostingClassifier(n_estimators=200, subsample=0.5, max_features=6, random_state=1)
        self._model.fit(train[:, self._columns], truth)

    def malignant(self, measurements: list[float]) -> bool:
        """The diagnosis for one patient."""
        return bool(self._model.predict([[measurements[column] for column in self._columns]])[0])


def patients() -> list[Patient]:
    """Those that no version was trained on."""
    _, rows, _, truth = _split(load_breast_cancer())
    return [Patient([float(cell) for cell in row], bool(sick)) for row, sick in zip(rows, truth, strict=True)]


def _split(data: Any) -> Any:
    """Training rows, other rows, and the truth about each: True is malignant (the data's class 0)."""
    malignant = data.target == 0
    return train_test_split(data.data, malignant, test_size=0.5, random_state=SPLIT_SEED, stratify=malignant)
