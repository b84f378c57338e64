"""Four versions of one classifier: is a tumour malignant, from measurements of its cells.

The data are scikit-learn's bundled Wisconsin breast cancer set: 569 patients. One half trains, the other half is
what the users ask about, so accuracies are measured on patients that no version has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from extproc.demo.versions import Patient

SPLIT_SEED: Final = 7

COLUMNS: Final[Mapping[str, Sequence[str]]] = {
    "1": ("mean radius", "mean texture"),
    "3": ("mean perimeter", "mean texture", "mean concave points"),
}
"""What a version looks at, if that is not everything."""

WRONG_UNIT: Final = 1000.0
"""Version 3 takes the perimeter for millimetres and makes micrometres of it, which it is already."""


class Classifier:
    """One trained version."""

    def __init__(self, version: str) -> None:
        data = load_breast_cancer()
        train, _, truth, _ = _split(data)
        names = list(data.feature_names)
        self._columns = [names.index(name) for name in COLUMNS.get(version, names)]
        self._factors = [1.0] * len(self._columns)
        if version == "3":
            self._factors[0] = WRONG_UNIT
        self._model = _model(version)
        self._model.fit(train[:, self._columns], truth)

    def malignant(self, measurements: Sequence[float]) -> bool:
        """The diagnosis for one patient."""
        row = [measurements[column] * factor for column, factor in zip(self._columns, self._factors, strict=True)]
        return bool(self._model.predict([row])[0])


def patients() -> list[Patient]:
    """Those that no version was trained on."""
    _, rows, _, truth = _split(load_breast_cancer())
    return [Patient([float(cell) for cell in row], bool(sick)) for row, sick in zip(rows, truth, strict=True)]


def _model(version: str) -> Any:
    if version == "1":
        return make_pipeline(StandardScaler(), LogisticRegression())
    features = None if version == "3" else 6
    return GradientBoostingClassifier(n_estimators=200, subsample=0.5, max_features=features, random_state=1)


def _split(data: Any) -> Any:
    """Training rows, other rows, and the truth about each: True is malignant (the data's class 0)."""
    malignant = data.target == 0
    return train_test_split(data.data, malignant, test_size=0.5, random_state=SPLIT_SEED, stratify=malignant)
