"""A search for parameters with scikit-learn, its parallel parts through joblib's multiprocessing backend."""

import joblib
import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score

if __name__ == "__main__":
    features, labels = make_classification(4_000, 20, random_state=0)
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        search = GridSearchCV(
            RandomForestClassifier(20, random_state=0), {"max_depth": [3, 5, 8], "max_features": [4, 8]}, cv=3
        )
        search.fit(features, labels)
        scores = cross_val_score(RandomForestClassifier(20, random_state=1), features, labels, cv=6)
        sums = joblib.Parallel()(joblib.delayed(np.sum)(features[i:]) for i in range(0, 4_000, 40))
    print(
        search.best_params_,
        round(search.best_score_, 6),
        scores.round(6).tolist(),
        round(float(sum(sums)), 6),
    )
