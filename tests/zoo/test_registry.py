from dataclasses import replace

import pytest
import torch

from xaiseg import zoo
from xaiseg.errors import UsageError


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_model_keeps_its_card(name):
    card = zoo.card(name)
    module = zoo.build(name, 1, 1)
    assert sum(parameter.numel() for parameter in module.parameters()) == card.parameters
    for channels, outputs in ((1, 1), (3, 4)):
        network = zoo.build(name, channels, outputs).eval()
        side = card.multiple_of
        image = torch.rand(2, channels, 2 * side, 3 * side)
        with torch.no_grad():
            assert network(image).shape == (2, outputs, 2 * side, 3 * side)
            assert isinstance(network.intrinsic(image), dict)
    for field in ("summary", "paper", "licence", "source", "differs", "data"):
        assert getattr(card, field) in zoo.card_text(card)


@pytest.mark.parametrize("name", zoo.list_models())
def test_shipped_weights_are_small_and_there(name):
    for file in zoo.card(name).weights:
        path = zoo.WEIGHTS / file
        assert path.is_file()
        assert path.stat().st_size <= 2_000_000


def test_an_unknown_name_gets_a_hint():
    for use in (zoo.card, lambda name: zoo.build(name, 1, 1)):
        with pytest.raises(UsageError, match="did you mean 'unet-compact'"):
            use("unet_compact")


def test_a_card_that_states_nothing_is_refused_at_registration():
    card = zoo.card("unet-compact")
    with pytest.raises(ValueError, match="licence"):
        zoo.zoo_model(replace(card, name="other", licence=""))
    with pytest.raises(ValueError, match="two zoo models"):
        zoo.zoo_model(card)(lambda channels, outputs: torch.nn.Identity())
