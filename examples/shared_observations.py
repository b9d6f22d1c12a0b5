"""Actors in processes of their own, which normalize what they observe by one running mean and variance.

Each actor steps a vector of environments, with Gymnasium's interface but without Gymnasium. Nobody merges statistics: a policy
sees observations that are normalized by what all actors have seen so far, and afterwards is evaluated by the same statistics,
which then stay as they are.

    python examples/shared_observations.py [--address HOST:PORT]
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
from normserve import Client, RunningNormLayer

NAME = "example-observations"
ACTORS, ENVIRONMENTS, STEPS = 3, 16, 50
SIZE = 4  # position and velocity in metres, angle in degrees, height in millimetres: no two alike in scale

Array = npt.NDArray[np.float64]


class Drift:
    """A vector of environments in which actions push a point about, as gymnasium.vector.VectorEnv has it."""

    def __init__(self, count: int, seed: int) -> None:
        self.num_envs = count
        self._random = np.random.default_rng(seed)
        self._state = np.zeros((count, 2))

    def reset(self) -> tuple[Array, dict[str, Any]]:
        """Begins anew; gives observations [num_envs, SIZE]."""
        self._state = self._random.normal(0, 1, (self.num_envs, 2))
        return self._observed(), {}

    def step(self, actions: Array) -> tuple[Array, Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Pushes by actions [num_envs]; gives observations, rewards, terminated, truncated and infos."""
        self._state[:, 1] += 0.1 * actions + self._random.normal(0, 0.05, self.num_envs)
        self._state[:, 0] += 0.1 * self._state[:, 1]
        ended = np.zeros(self.num_envs, np.bool_)
        return self._observed(), -np.abs(self._state[:, 0]), ended, ended, {}

    def _observed(self) -> Array:
        position, velocity = self._state.T
        return np.stack([position, velocity, 90 + 30 * np.tanh(position), 1500 + 400 * velocity], axis=1)


def policy(observations: Array) -> Array:
    """Pushes back to the middle. It can be this simple because what it sees has mean 0 and variance 1."""
    return np.clip(-observations[:, 0] - observations[:, 1], -1, 1)


def act(address: str, seed: int) -> Array:
    """Runs one actor; gives all that it has observed, which only the check at the end needs."""
    seen = []
    environments = Drift(ENVIRONMENTS, seed)
    with Client(address) as client:
        normalizer = client.normalizer(NAME)
        observations, _ = environments.reset()
        for _ in range(STEPS):
            seen.append(observations)
            actions = policy(normalizer.apply(observations, training=True))
            observations, *_ = environments.step(actions)
    return np.concatenate(seen)


def evaluate(client: Client) -> float:
    """Runs the policy by the statistics as they are; gives the mean reward of the last step."""
    environments = Drift(ENVIRONMENTS, seed=99)
    observations, _ = environments.reset()
    rewards = np.zeros(ENVIRONMENTS)
    for _ in range(STEPS):
        actions = policy(client.normalizer(NAME).apply(observations, training=False))
        observations, rewards, *_ = environments.step(actions)
    return float(rewards.mean())


def main() -> None:
    """Runs the actors, evaluates, and compares the shared statistics with those of everything at once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--address", default="127.0.0.1:8001")
    address = parser.parse_args().address
    with Client(address) as client:
        normalizer = client.normalizer(NAME)
        normalizer.delete(missing_ok=True)
        normalizer.create(RunningNormLayer((SIZE,), clip=10))
        with ProcessPoolExecutor(ACTORS, get_context("spawn")) as actors:
            seen = np.concatenate(list(actors.map(partial(act, address), range(ACTORS))))
        before = normalizer.get()
        print(f"{ACTORS} actors have made {before.sequence} updates; mean reward at the end {evaluate(client):.3f}")
        assert normalizer.get().etag == before.etag, "evaluating has changed the statistics"
        state = normalizer.state_dict()
    np.testing.assert_allclose(state["mean"], seen.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(state["var"], seen.var(axis=0), rtol=1e-9)
    print(f"mean {state['mean'].round(2)} and variance {state['var'].round(2)} are those of all {len(seen)} observations")


if __name__ == "__main__":
    main()
