"""Parameters, operations and time of a network: any network's."""

import torch
from torch import Tensor, nn

from cstl.models import CSTL, Output
from cstl.models.cost import cost


class Rows(nn.Module):
    """One convolution of four channels and a linear map of the rows' means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Linear(4, 8, bias=False)

    def forward(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Output:
        maps = self.conv(silhouettes.flatten(0, 1)[:, None]).mean(3).unflatten(0, silhouettes.shape[:2])
        return Output(self.linear(maps.amax(1).transpose(1, 2)), None)


def test_counted_by_hand() -> None:
    network, frames, height, width = Rows(), 5, 16, 11
    found = cost(network, torch.rand(1, frames, height, width))
    convolution = 2 * 9 * 4 * frames * height * width
    assert (found["parameters"], found["frames"]) == (4 * 9 + 4 * 8, frames)
    assert found["flops"] == convolution + 2 * 4 * 8 * height
    assert 0 < found["seconds_a_sequence"] < 10
    assert network.training


def test_of_the_reference_network() -> None:
    network = CSTL(height=16, num_classes=3, channels=(2, 4, 8), embedding_dim=4, reduction=4).eval()
    short, long = (cost(network, torch.rand(1, frames, 16, 11)) for frames in (4, 8))
    assert short["flops"] < long["flops"] < 2 * short["flops"]
    assert not network.training


def test_a_network_that_cannot_be_measured_says_why() -> None:
    found = cost(Rows(), torch.rand(1, 5, 3, 16, 11))
    assert "flops" not in found
    assert "Error" in found["left_out"]


def test_random_numbers_are_left_alone() -> None:
    network = Rows()
    before = torch.get_rng_state()
    cost(network, torch.ones(1, 2, 16, 11))
    assert torch.equal(torch.get_rng_state(), before)
