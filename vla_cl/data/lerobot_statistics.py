"""Statistics of features as LeRobot keeps them, for each episode and put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FeatureStatistics = dict[str, NDArray[np.float64]]
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
SAMPLED_IMAGES = 100


def episode_statistics(values: Mapping[str, NDArray[Any]]) -> dict[str, FeatureStatistics]:
    """Statistics over the steps of an episode: each (D,) for vectors (T, D) and numbers (T,); (3, 1, 1), in [0, 1], for
    images (T, H, W, 3), of which at most 100 at equal distances are looked at; `count` is (1,).
    """
    return {name: _images(each) if each.ndim == 4 else _vectors(each) for name, each in values.items()}


def _vectors(values: NDArray[Any]) -> FeatureStatistics:
    return _statistics(values.reshape(len(values), -1).astype(np.float64))


def _images(images: NDArray[np.uint8]) -> FeatureStatistics:
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), SAMPLED_IMAGES)).round().astype(np.int64))
    found = _statistics(images[chosen].reshape(-1, 3) / 255.0)
    shaped = {name: each.reshape(3, 1, 1) for name, each in found.items() if name != "count"}
    return {**shaped, "count": np.array([float(len(chosen))])}


def _statistics(rows: NDArray[np.float64]) -> FeatureStatistics:
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([float(len(rows))]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def together(episodes: Sequence[FeatureStatistics]) -> FeatureStatistics:
    """Statistics over several episodes. Exact, but for quantiles: those are LeRobot's, means weighted by the counts."""
    counts = np.array([each["count"][0] for each in episodes])

    def weighted(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = np.tensordot(counts / counts.sum(), np.stack(values), axes=1)
        return mean

    mean = weighted([each["mean"] for each in episodes])
    variance = weighted([each["std"] ** 2 + (each["mean"] - mean) ** 2 for each in episodes])
    return {
        "min": np.min([each["min"] for each in episodes], axis=0),
        "max": np.max([each["max"] for each in episodes], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([counts.sum()]),
        **{name: weighted([each[name] for each in episodes]) for name in QUANTILES},
    }


def as_lists(statistics: FeatureStatistics) -> dict[str, Any]:
    """For JSON and Parquet; counts as whole numbers."""
    return {name: [int(values[0])] if name == "count" else values.tolist() for name, values in statistics.items()}
