"""The scoring room: a model folder becomes a calibrated probability, and a labelled table becomes a model folder.

Serving code imports `model`, the keeper `explain`; `train`, `measure`, `rows`, `suspects`, `trees` and `report` are
offline, and bring in xgboost, scikit-learn or scipy.
"""
