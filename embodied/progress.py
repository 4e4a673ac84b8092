"""How well vectors of episodes tell progress and success: what a representation must pass before it is a reward.

    e_t: the vector of an episode up to step t (`embodied.embedding`),  e_T: of all of it,  m_1, ..., m_M: of successes

    same episode     p_t = 1 - |e_t - e_T| / max_s |e_s - e_T|
    cross-episode    p_t = 1 - d_t / max_s d_s,    d_t = softmin_j |e_t - m_j|

The first measures how an episode comes closer to its own end, which any smooth encoder does; the second how it comes
closer to what other successes were. Order is measured by Spearman's correlation with time and by the share of steps
that go up; what separates successes from failures by the area under the ROC curve of -d_T, by the kernel mean
discrepancy of the vectors and by the standardised mean difference of d_T.

Sources: SRPO, arXiv 2511.15605 (progress of prefixes, its measures); Mann and Whitney 1947 (AUROC); Gretton et al.
2012, JMLR 13 (mean discrepancy). Differences: the cross-episode form is ours.
"""

import numpy as np
from jaxtyping import Float


def same_episode(prefixes: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " T"]:
    """Progress in [0, 1] of each prefix towards the whole episode, which is its last row."""
    return _rising(np.linalg.norm(prefixes - prefixes[-1], axis=-1))


def cross_episode(
    prefixes: Float[np.ndarray, "T D"], successes: Float[np.ndarray, "M D"], scale: float
) -> Float[np.ndarray, " T"]:
    """Progress in [0, 1] of each prefix towards other episodes, which succeeded; `scale` as in `distances`."""
    return _rising(distances(prefixes, successes, scale))


def distances(
    vectors: Float[np.ndarray, "N D"], successes: Float[np.ndarray, "M D"], scale: float
) -> Float[np.ndarray, " N"]:
    """Soft minimum of the distances to successes: of the nearest where `scale` is small, their mean where it is large.

    d = -scale log mean_j exp(-|u - m_j| / scale)
    """
    exponents = -_apart(vectors, successes) / scale
    highest = exponents.max(-1)
    return -scale * (highest + np.log(np.exp(exponents - highest[:, None]).mean(-1)))


def spread(vectors: Float[np.ndarray, "N D"]) -> float:
    """The median distance between two of the vectors; 1 where they are all the same."""
    apart = _apart(vectors, vectors)[np.triu_indices(len(vectors), 1)]
    return float(np.median(apart)) or 1.0


def spearman(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float:
    """Rank correlation in [-1, 1], ties sharing their mean rank; 0 where either is constant."""
    first, second = (ranks - ranks.mean() for ranks in (_ranks(x), _ranks(y)))
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / size) if size > 0 else 0.0


def increasing(progress: Float[np.ndarray, " T"]) -> float:
    """The share of steps in which progress grows."""
    return float((np.diff(progress) > 0).mean())


def auroc(positives: Float[np.ndarray, " N"], negatives: Float[np.ndarray, " M"]) -> float:
    """The probability that a positive scores higher than a negative, a tie counting half."""
    gap = positives[:, None] - negatives[None]
    return float((gap > 0).mean() + (gap == 0).mean() / 2)


def discrepancy(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "M D"]) -> float:
    """Distance in [0, sqrt 2] between the mean embeddings of two sets; the Gaussian kernel is as wide as their spread.

    k(u, v) = exp(-|u - v|^2 / (2 width^2))
    """
    width = spread(np.concatenate([x, y]))
    kernel = lambda u, v: np.exp(-(_apart(u, v) ** 2) / (2 * width**2)).mean()  # noqa: E731
    return float(np.sqrt(max(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y), 0.0)))


def standardised_difference(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " M"]) -> float:
    """How much larger y is than x on average, in root mean squares of their standard deviations; 0 where none vary."""
    deviation = np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    return float((y.mean() - x.mean()) / deviation) if deviation > 0 else 0.0


def _rising(distance: np.ndarray) -> np.ndarray:
    largest = distance.max()
    return 1 - distance / largest if largest > 0 else np.ones_like(distance)


def _apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distances [N, M] between rows."""
    return np.stack([np.linalg.norm(row - y, axis=-1) for row in x])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]
