"""Intervals, agreement, ROC and paired tests against libraries, published values and simulation."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, permutation_test, spearmanr, wilcoxon
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from training.scoring.agreement import agreement, weighted_kappa
from training.scoring.confidence import REMOVED, score_pixels, sparsify, spearman, summarise
from training.scoring.intervals import bootstrap, resampled_means, share_of_way
from training.scoring.paired import group_means, holm, sign_flip_p, wilcoxon_p
from training.scoring.roc import auc, compare_auc, delong, score_auc, wilson

RNG = np.random.default_rng(5)


def test_bootstrap_interval_holds_the_mean():
    values = np.random.default_rng(1).normal(0.7, 0.1, 200)
    interval = bootstrap(values)
    assert interval.low < interval.mean < interval.high
    # Normal theory: mean +- 1.96 deviation / sqrt(n).
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * interval.deviation / 200**0.5, rel=0.1)
    assert bootstrap(values) == interval
    assert (interval.n, interval.groups) == (200, 200)
    assert interval.least <= interval.median <= interval.greatest


def test_frames_of_one_patient_do_not_narrow_the_interval():
    """Twenty patients, ten frames each that say the same: the interval is that of twenty."""
    patients = np.random.default_rng(2).normal(0.6, 0.2, 20)
    frames, groups = np.repeat(patients, 10), [str(i // 10) for i in range(200)]
    grouped, naive, alone = bootstrap(frames, groups), bootstrap(frames), bootstrap(patients)
    width = [one.high - one.low for one in (grouped, naive, alone)]
    assert width[0] > 2.5 * width[1]
    assert width[0] == pytest.approx(width[2], rel=0.1)
    assert grouped.groups == 20


def test_draws_do_not_depend_on_order():
    values, groups = RNG.random((30, 2)), [str(i % 7) for i in range(30)]
    order = RNG.permutation(30)
    shuffled = resampled_means(values[order], [groups[i] for i in order])
    np.testing.assert_allclose(resampled_means(values, groups), shuffled)


def test_share_of_the_way():
    floor, ceiling = RNG.normal(0.2, 0.05, 100), RNG.normal(0.8, 0.05, 100)
    groups = [str(i) for i in range(100)]
    share = share_of_way(floor + 0.75 * (ceiling - floor), floor, ceiling, groups)
    assert share.value == pytest.approx(0.75)
    assert (share.low, share.high) == (pytest.approx(0.75, abs=1e-3), pytest.approx(0.75, abs=1e-3))
    # Less is better: the same answer upside down.
    assert share_of_way(0.5 * (floor + ceiling), ceiling, floor, groups, "less").value == pytest.approx(0.5)
    assert share_of_way(floor, floor, floor + RNG.normal(0, 0.5, 100), groups) is None
    assert share_of_way(floor, ceiling, floor, groups) is None


def test_weighted_kappa_is_that_of_statsmodels():
    table = np.array([[8, 3, 1, 0, 0], [2, 9, 4, 1, 0], [0, 3, 7, 2, 1], [0, 1, 3, 11, 4], [1, 0, 0, 2, 6.0]])
    reference = cohens_kappa(table, wt="quadratic", return_results=False)
    assert weighted_kappa(table) == pytest.approx(float(reference), abs=1e-12)
    assert weighted_kappa(np.diag([3.0, 2, 4, 1, 2])) == 1.0
    assert np.isnan(weighted_kappa(np.diag([3.0, 0, 0, 0, 0])))


def test_agreement_counts():
    found = agreement([1, 2, 3, 4, 5, 5], [1, 2, 4, 4, 3, 5], list("abcdef"))
    assert found.exact.mean == pytest.approx(4 / 6, abs=1e-4)
    assert found.within_one.mean == pytest.approx(5 / 6, abs=1e-4)
    assert found.kappa.low < found.kappa.value < found.kappa.high
    assert agreement([2, 2, 2], [2, 2, 2], list("abc")).kappa is None


POSITIVE = np.array([True] * 10 + [False] * 12)
ORDINAL = np.array([5, 4, 4, 3, 5, 2, 4, 5, 3, 4, 1, 2, 3, 1, 2, 2, 4, 1, 3, 2, 1, 5.0])
CONTINUOUS = np.array(
    [
        *(0.62, 0.71, 0.33, 0.58, 0.9, 0.41, 0.66, 0.39, 0.77, 0.52),
        *(0.48, 0.12, 0.55, 0.31, 0.6, 0.22, 0.35, 0.71, 0.18, 0.44, 0.05, 0.5),
    ]
)


def test_delong_gives_the_digits_of_rocauc_comparison():
    """Golden: rocauc_comparison 0.1.1, fastDeLong, on the cases above."""
    values, covariance = delong(np.stack([ORDINAL, CONTINUOUS]), POSITIVE)
    np.testing.assert_allclose(values, [0.8375, 0.77916667], atol=1e-8)
    np.testing.assert_allclose(covariance, [[0.00763363, 0.00081194], [0.00081194, 0.01014976]], atol=1e-8)
    assert compare_auc(ORDINAL, CONTINUOUS, POSITIVE).p == pytest.approx(0.6463176505935542, abs=1e-5)


def test_delong_is_its_definition():
    """Components counted pair by pair: V10 and V01 of DeLong 1988."""
    x, y = ORDINAL[POSITIVE], ORDINAL[~POSITIVE]
    psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    variance = psi.mean(axis=1).var(ddof=1) / 10 + psi.mean(axis=0).var(ddof=1) / 12
    values, covariance = delong(ORDINAL, POSITIVE)
    assert values[0] == pytest.approx(psi.mean())
    assert covariance[0, 0] == pytest.approx(variance)


def test_auc_is_that_of_mann_whitney_and_its_intervals_agree():
    score = np.concatenate([RNG.normal(1, 1, 60), RNG.normal(0, 1, 90)]).round(1)
    positive = np.arange(150) < 60
    found = score_auc(score, positive, [str(i) for i in range(150)])
    u = mannwhitneyu(score[positive], score[~positive]).statistic
    assert auc(score[positive], score[~positive]) == pytest.approx(u / (60 * 90))
    assert found.value == pytest.approx(u / (60 * 90), abs=1e-4)
    assert found.groups.low == pytest.approx(found.low, abs=0.03)
    assert found.groups.high == pytest.approx(found.high, abs=0.03)
    # Five pictures of each patient: DeLong does not know, the bootstrap does.
    many = score_auc(np.repeat(score, 5), np.repeat(positive, 5), [str(i // 5) for i in range(750)])
    assert many.groups.high - many.groups.low > 1.8 * (many.high - many.low)
    assert score_auc(score, np.arange(150) < 1, [str(i) for i in range(150)]) is None


def test_equal_scores_do_not_differ():
    assert compare_auc(ORDINAL, ORDINAL, POSITIVE).p == 1.0


def test_wilson_is_that_of_statsmodels():
    low, high = proportion_confint(98, 200, method="wilson")
    found = wilson(98, 200)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert (found.low, found.high) == (0.4216, 0.5588)  # .42 to .56: readers' authenticity of the paper
    assert wilson(0, 0) is None


def test_holm_is_that_of_statsmodels():
    p = [0.01, 0.04, 0.03, 0.005, 0.6, 0.04]
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    assert holm([]) == []


def test_wilcoxon_is_that_of_scipy_without_zeros():
    differences = np.array([0.3, -0.1, 0.0, 0.25, 0.4, -0.05, 0.2, 0.15, 0.0, 0.35])
    assert wilcoxon_p(differences) == pytest.approx(wilcoxon(differences[differences != 0]).pvalue)
    assert wilcoxon_p(np.zeros(5)) == 1.0


def test_sign_flips_are_those_of_scipy():
    few = np.array([0.3, -0.1, 0.25, 0.4, -0.05, 0.2, 0.15, 0.35])
    exact = permutation_test(
        (few,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=np.inf,
    )  # fmt: skip
    assert sign_flip_p(few) == pytest.approx(exact.pvalue)
    many = np.concatenate([few, few * 0.3 - 0.1])
    signs = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    all_flips = (abs(signs @ many) >= abs(many.sum()) - 1e-12).mean()
    assert sign_flip_p(many) == pytest.approx(all_flips, abs=0.015)
    assert sign_flip_p(np.ones(40)) == pytest.approx(1 / 10_001)


def test_patients_are_tested_not_frames():
    differences = np.array([0.1, 0.3, 0.2, -0.4])
    np.testing.assert_allclose(group_means(differences, ["a", "a", "a", "b"]), [0.2, -0.4])


def test_spearman_is_that_of_scipy():
    a = RNG.random(50).round(1)
    b = a + RNG.random(50)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, np.ones(50)) == 0.0


def test_a_spread_that_knows_the_error_is_perfect_and_one_that_does_not_gains_nothing():
    rng = np.random.default_rng(3)
    scale = rng.uniform(0.02, 0.3, (80, 90)).astype(np.float32)
    error = rng.exponential(scale).astype(np.float32)  # |Laplace| of that scale
    told, knows = score_pixels(scale, error), score_pixels(error, error)
    guess = score_pixels(rng.permutation(scale.ravel()).reshape(scale.shape), error)
    assert knows.spearman == pytest.approx(1.0)
    assert knows.by_spread == knows.by_error
    assert 0.3 < told.spearman < 1.0
    assert told.covered == (pytest.approx(0.5, abs=0.02), pytest.approx(0.9, abs=0.02))
    assert guess.spearman == pytest.approx(0.0, abs=0.05)
    reports = [summarise([one] * 4, list("abcd"), [], [], []) for one in (knows, told, guess)]
    gains = [report.sparsification_gain for report in reports]
    assert gains[0] == 1.0
    assert 0.2 < gains[1] < 0.9
    assert gains[2] == pytest.approx(0.0, abs=0.05)
    assert summarise([told] * 2, list("ab"), [], [], []) is None


def test_confident_frames_are_judged_by_their_ncc():
    pixel = score_pixels(np.ones((4, 4), np.float32), np.eye(4, dtype=np.float32))
    nccs = [0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 0.2, 0.3, 0.4, 0.95]
    report = summarise([pixel] * 10, [str(i) for i in range(10)], nccs, nccs, [str(i) for i in range(10)])
    assert report.confidence_spearman.value == 1.0
    assert report.confidence_error.mean == 0.0
    assert report.ncc_by_confidence[0] == pytest.approx(np.mean(nccs))
    assert report.ncc_by_confidence[-1] == pytest.approx(0.95)
    assert list(report.ncc_by_confidence) == sorted(report.ncc_by_confidence)


def test_sparsification_takes_the_largest_first():
    error = np.arange(1, 11, dtype=np.float64)
    assert sparsify(error, error) == tuple(np.arange(1, 11)[: 10 - i].mean() for i in range(len(REMOVED)))
