"""A classifier that is trained and served by one normalizer, so that both see the same numbers.

The features differ in scale by five orders of magnitude. Whoever trains sends batches to be observed, then freezes the
normalizer and trains on what it gives. Whoever serves asks the same normalizer, row by row, and has nothing to copy that could
be forgotten. Beside it stands what is often done instead: to normalize each request by its own statistics.

    python examples/feature_pipeline.py [--address HOST:PORT]
"""

import argparse

import numpy as np
import numpy.typing as npt
from normserve import Client, Normalizer, RunningNormLayer

NAME = "example-features"
FEATURES = ("age in years", "income per year", "share of clicks")
ROWS, BATCH = 2000, 100

Array = npt.NDArray[np.float64]


def customers(seed: int) -> tuple[Array, Array]:
    """Draws features [ROWS, 3] and labels [ROWS], 0 or 1."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(ROWS, 3))
    labels = (hidden @ [1.0, 2.0, -1.5] + random.normal(0, 0.3, ROWS) > 1).astype(np.float64)
    return hidden * [12, 20_000, 0.01] + [40, 55_000, 0.05], labels


def observe(normalizer: Normalizer, features: Array) -> None:
    """Sends the training data through, batch by batch; who begins again after a crash counts no batch twice."""
    made = normalizer.get().create_time.isoformat()
    for start in range(0, ROWS, BATCH):
        normalizer.observe(features[start : start + BATCH], request_id=f"{made} row {start}")


def train(features: Array, labels: Array) -> Array:
    """Fits a logistic regression by gradient descent; gives its weights, the last one for the constant."""
    inputs = np.column_stack([features, np.ones(len(features))])
    weights = np.zeros(inputs.shape[1])
    for _ in range(300):
        predicted = 1 / (1 + np.exp(-inputs @ weights))
        weights -= inputs.T @ (predicted - labels) / len(labels)
    return weights


def predict(weights: Array, features: Array) -> npt.NDArray[np.bool_]:
    """Gives the labels of normalized features."""
    found: npt.NDArray[np.bool_] = features @ weights[:-1] + weights[-1] > 0
    return found


def main() -> None:
    """Trains, serves, and tells what each way of serving gets right."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--address", default="127.0.0.1:8001")
    with Client(parser.parse_args().address) as client:
        normalizer = client.normalizer(NAME)
        normalizer.delete(missing_ok=True)
        normalizer.create(RunningNormLayer((len(FEATURES),)))

        features, labels = customers(seed=1)
        observe(normalizer, features)
        observe(normalizer, features)  # as after a crash: nothing is counted twice
        normalizer.update(training=False)
        trained_on = normalizer.apply(features)
        weights = train(trained_on, labels)
        print(f"trained after {normalizer.get().sequence} updates: {_accuracy(weights, trained_on, labels):.1%} right")

        assert np.array_equal(normalizer.apply(features[0]), trained_on[0]), "a row is not what it was in training"
        features, labels = customers(seed=2)
        served = np.stack([normalizer.apply(row) for row in features[:200]])
        print(f"served row by row: {_accuracy(weights, served, labels[:200]):.1%} right")

    rich = features[labels == 1][:200]  # a request with customers of one kind
    own = (rich - rich.mean(axis=0)) / rich.std(axis=0)
    print(f"served by each request's own statistics: {_accuracy(weights, own, np.ones(200)):.1%} right")


def _accuracy(weights: Array, features: Array, labels: Array) -> float:
    return float((predict(weights, features) == labels).mean())


if __name__ == "__main__":
    main()
