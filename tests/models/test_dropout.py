"""Dropout that is the same on however many processes."""

import pytest
import torch

from cstl.models.layers import dropout
from cstl.models.layers.dropout import Dropout


def test_values_are_dropped_in_training_alone_and_made_up_for() -> None:
    x, layer = torch.ones(200, 100), Dropout(0.9)
    assert layer.eval()(x) is x
    assert Dropout(0.0).train()(x) is x
    torch.manual_seed(0)
    y = layer.train()(x.requires_grad_())
    assert y.unique().tolist() == pytest.approx([0, 10])
    assert y.mean().item() == pytest.approx(1, abs=0.1)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    with pytest.raises(ValueError, match="below 1"):
        Dropout(1.0)


def test_processes_drop_together_what_one_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    x, layer = torch.randn(6, 4, 5), Dropout(0.5).train()
    torch.manual_seed(1)
    whole = layer(x)
    monkeypatch.setattr(dropout, "world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(1)
        assert torch.equal(layer(x[2 * rank : 2 * rank + 2]), whole[2 * rank : 2 * rank + 2])
