from dataclasses import replace

import pytest
import torch

from xaiseg import zoo
from xaiseg.errors import UsageError
from xaiseg.subject import RawBoxes


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
            answer = network(image)
            if card.task == "detection":
                assert isinstance(answer, RawBoxes)
                assert answer.scores.shape[::2] == (2, outputs)
            else:
                assert answer.shape == (2, outputs, 2 * side, 3 * side)
            assert isinstance(network.intrinsic(image), dict)
    for field in ("summary", "paper", "licence", "source", "differs"):
        assert getattr(card, field) in zoo.card_text(card)


@pytest.mark.parametrize("name", zoo.list_models())
def test_shipped_weights_are_small_and_there(name):
    for weights in zoo.card(name).weights:
        path = zoo.WEIGHTS / weights.file
        assert path.stat().st_size <= 4_000_000
        assert all((weights.data, weights.command, weights.result))
        zoo.check_shipped(path)


def test_changed_weights_are_refused(tmp_path, monkeypatch):
    file = zoo.card("unet-compact").weights[0].file
    (tmp_path / file).write_bytes((zoo.WEIGHTS / file).read_bytes() + b"!")
    zoo.check_shipped(tmp_path / file)  # a user's own file of the same name
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    with pytest.raises(UsageError, match="changed after the release"):
        zoo.check_shipped(tmp_path / file)


def test_recipes_have_names():
    assert zoo.recipe_of("radiomicnet", "paper").encoder_lr == 1e-5
    assert zoo.recipe_of("unet-compact") == zoo.recipe_of("unet-compact", "compact")
    with pytest.raises(UsageError, match="did you mean 'paper'"):
        zoo.recipe_of("radiomicnet", "papr")


def test_an_unknown_name_gets_a_hint():
    for use in (zoo.card, lambda name: zoo.build(name, 1, 1)):
        with pytest.raises(UsageError, match="did you mean 'unet-compact'"):
            use("unet_compact")


@pytest.mark.parametrize(("channels", "outputs"), [(0, 1), (1, 0)])
def test_a_network_needs_channels_and_outputs(channels, outputs):
    with pytest.raises(UsageError, match=f"Got: {channels} and {outputs}"):
        zoo.build("unet-compact", channels, outputs)


def test_a_card_that_states_nothing_is_refused_at_registration():
    card = zoo.card("unet-compact")
    with pytest.raises(ValueError, match="licence"):
        zoo.zoo_model(replace(card, name="other", licence=""))
    with pytest.raises(ValueError, match="two zoo models"):
        zoo.zoo_model(card)(lambda channels, outputs: torch.nn.Identity())
