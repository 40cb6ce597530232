"""What the tests of all scikit-learn estimators share: which of its checks may fail on them, and why."""

WEIGHTS = ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data")


def weights_are_no_repetitions(reasons):
    """The checks that a weight is the same as a repetition, with the reasons that hold why it is not; else none."""
    reason = "; ".join(reason for reason, holds in reasons.items() if holds)
    return dict.fromkeys(WEIGHTS, reason) if reason else {}
