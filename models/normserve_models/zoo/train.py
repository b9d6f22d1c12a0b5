"""Train the digits network: `python -m normserve_models.zoo.train`, about a minute on two cores.

Writes the weights as safetensors and a model card as JSON beside the network, and says so where the accuracy on the
held-out digits is lower than what the project promises.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from normserve_models.zoo import digits, digits_data

if TYPE_CHECKING:
    from torch import Tensor

SEED = 0
EPOCHS = 30
BATCH = 64
PEAK_RATE = 5e-3
PROMISED_ACCURACY = 0.98


def main() -> int:
    """Train, measure, write; return the exit status."""
    started = time.monotonic()
    network, accuracy = train()
    save_file(network.state_dict(), digits.WEIGHTS)
    digits.CARD.write_text(json.dumps(card(accuracy), indent=2) + "\n")
    seconds = time.monotonic() - started
    _say(f"\nheld-out accuracy {accuracy:.4f} after {seconds:.0f} s, weights in {digits.WEIGHTS.name}\n")
    return 0 if accuracy >= PROMISED_ACCURACY else 1


def train(epochs: int = EPOCHS) -> tuple[digits.Digits, float]:
    """Train from the seed.

    Returns:
        The network in eval mode, and its accuracy on the held-out digits, 0 to 1.
    """
    torch.manual_seed(SEED)
    images, labels = map(torch.from_numpy, digits_data.training())
    network = digits.Digits()
    steps = -(-len(labels) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, epochs=epochs, steps_per_epoch=steps)
    for epoch in range(epochs):
        loss = _epoch(network.train(), optimizer, schedule, images, labels)
        _say(f"\repoch {epoch + 1}/{epochs}  loss {loss:.4f}  held-out accuracy {measure(network.eval()):.4f} ")
    return network, measure(network)


def _epoch(network: digits.Digits, optimizer: torch.optim.Optimizer, schedule: Any, images: Tensor, labels: Tensor) -> float:
    for chosen in torch.randperm(len(labels)).split(BATCH):
        loss = F.cross_entropy(network(_shifted(images[chosen])), labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def _shifted(images: Tensor) -> Tensor:
    """Move the batch by up to one pixel in each direction: writers do not centre their digits."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    return F.pad(images, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


def measure(network: digits.Digits) -> float:
    """Return the share of held-out digits that the network names rightly, 0 to 1."""
    images, labels = map(torch.from_numpy, digits_data.held_out())
    with torch.inference_mode():
        return float((network(images).argmax(1) == labels).float().mean())


def card(accuracy: float) -> dict[str, Any]:
    """Return the model card: what was trained, on what, and how well it does."""
    return {
        "name": "digits",
        "description": "residual network, nine batch norms, for 8x8 handwritten digits",
        "input": "image FP32 [N,1,8,8], pixels divided by 16",
        "output": "logits FP32 [N,10]",
        "data": "sklearn.datasets.load_digits, 1797 images (UCI optical recognition of handwritten digits)",
        "split": {
            "held_out": digits_data.HELD_OUT,
            "rule": "the first 360 of numpy.random.RandomState(seed).permutation(1797)",
            "seed": digits_data.SPLIT_SEED,
        },
        "training": {"seed": SEED, "epochs": EPOCHS, "batch": BATCH, "optimizer": "AdamW, one cycle", "peak_rate": PEAK_RATE},
        "held_out_accuracy": round(accuracy, 4),
        "torch": torch.__version__.split("+")[0],
    }


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
