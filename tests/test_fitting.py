import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from tests.toys import TinyNet
from xaiseg.data.case import Case, CaseRef
from xaiseg.errors import NothingToAudit, SubjectError, UsageError
from xaiseg.fitting import Score, _spare_strided_depthwise, _State, evaluate, image_dice, in_order, train
from xaiseg.zoo.augmentation import Augmentation
from xaiseg.zoo.recipe import Objective, Recipe, segmentation_loss

SMALL = Recipe(size=16, epochs=3, images_per_epoch=16, batch=4, bfloat16=False)


def cases(count, seed, classes=2):
    rng = np.random.default_rng(seed)
    for index in range(count):
        mask = np.zeros((20, 26), np.uint8)
        for label in range(1, classes):
            y, x = rng.integers(2, 12, 2)
            mask[y : y + 6, x : x + 8] = label
        image = np.array([0.1, 0.9, 0.5])[mask] + rng.normal(0, 0.05, mask.shape)
        yield Case(CaseRef(f"{seed}-{index}", ""), image.clip(0, 1).astype(np.float32)[None], mask)


def run(out, recipe=SMALL, **options):
    options = {"log": lambda line: None, "seed": 1, **options}
    return train(TinyNet, cases(12, 0), cases(5, 1), recipe=recipe, out=out, **options)


def test_a_training_is_the_same_under_a_seed_and_another_under_another(tmp_path):
    first, second, third = (
        load_file(run(tmp_path / name, seed=seed).weights) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("stop", [1, 2])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, stop):
    whole = load_file(run(tmp_path / "whole").weights)
    seen = []

    def interrupt(line):
        seen.append(line)
        if len(seen) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halves", log=interrupt)
    lines = []
    resumed = load_file(run(tmp_path / "halves", log=lines.append).weights)
    assert lines[0] == f"resumed after epoch {stop}"
    assert len(lines) == 1 + SMALL.epochs - stop
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not (tmp_path / "halves" / "checkpoint.pt").exists()


def test_the_checkpoint_of_another_training_is_refused(tmp_path):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, log=interrupt)
    with pytest.raises(UsageError, match="another training"):
        run(tmp_path, seed=2)


def test_the_same_training_gives_the_same_bytes_and_is_not_repeated(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    data = first.weights.read_bytes()
    assert data == second.weights.read_bytes()
    with safe_open(first.weights, framework="pt") as held:
        assert held.metadata()["epoch"] == str(first.epoch)
    lines = []
    again = run(tmp_path / "a", log=lines.append)
    assert lines == ["this training is done already; nothing was trained"]
    assert again == first
    assert first.weights.read_bytes() == data


def test_the_weights_of_another_training_are_never_written_over(tmp_path):
    weights = run(tmp_path).weights
    data = weights.read_bytes()
    for change in ({"seed": 2}, {"recipe": replace(SMALL, epochs=2)}):
        with pytest.raises(UsageError, match="the weights of another training"):
            run(tmp_path, **change)
    assert weights.read_bytes() == data


@pytest.mark.parametrize("names", ["ab", "a much longer name of metadata, with umlauts: ä"])
def test_metadata_in_order_leave_tensors_where_they_were(names, tmp_path):
    tensors = {"x": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}
    path = tmp_path / "w.safetensors"
    path.write_bytes(in_order(save(tensors, metadata={names[::-1]: "1", "z": "2", "a": names})))
    with safe_open(path, framework="pt") as held:
        assert held.metadata() == {names[::-1]: "1", "z": "2", "a": names}
    assert all(torch.equal(value, tensors[name]) for name, value in load_file(path).items())
    assert path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")].index(b'"a"') < 40


def test_training_learns_what_is_bright(tmp_path):
    recipe = Recipe(size=16, epochs=8, images_per_epoch=32, batch=4, lr=0.03, bfloat16=False)
    trained = run(tmp_path, recipe)
    assert trained.score.dice > 0.8
    with safe_open(trained.weights, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["training"])["recipe"]["size"] == 16
    assert metadata["epoch"] == str(trained.epoch)


def test_training_with_more_classes(tmp_path):
    recipe = Recipe(size=16, epochs=8, images_per_epoch=32, batch=4, lr=0.03, bfloat16=False,
                    augmentation=Augmentation(gain=0, gamma=0))  # fmt: skip
    trained = train(
        lambda: TinyNet(outputs=3), cases(12, 0, 3), cases(5, 1, 3), recipe=recipe, out=tmp_path, classes=3,
        log=lambda line: None,
    )  # fmt: skip
    assert trained.score.dice > 0.5


def test_no_case_is_an_error(tmp_path):
    with pytest.raises(NothingToAudit):
        train(TinyNet, [], [], recipe=SMALL, out=tmp_path)


def test_a_case_without_reference_is_an_error(tmp_path):
    bare = Case(CaseRef("x", ""), np.zeros((1, 8, 8), np.float32))
    with pytest.raises(UsageError, match="no reference"):
        train(TinyNet, [bare], [bare], recipe=SMALL, out=tmp_path)


def test_the_loss_is_cross_entropy_plus_soft_dice():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 5, 4, generator=generator)
    masks = torch.randint(0, 2, (2, 5, 4), generator=generator).to(torch.uint8)
    masks[0, 0] = 255
    entropy, dice = [], []
    for z, mask in zip(logits[:, 0], masks, strict=True):
        valid = mask != 255
        p, t = torch.sigmoid(z[valid]), mask[valid].float()
        entropy += (-(t * p.log() + (1 - t) * (1 - p).log())).tolist()
        dice.append(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    expected = np.mean(entropy) + float(np.mean([float(d) for d in dice]))
    assert float(segmentation_loss(logits, masks)) == pytest.approx(expected, rel=1e-5)


def test_dice_of_one_image():
    mask = torch.tensor([[0, 1, 1, 255]])
    assert image_dice(torch.tensor([[0, 1, 0, 1]]), mask) == (2 / 3, True)
    assert image_dice(torch.tensor([[1, 0, 0, 0]]), torch.zeros(1, 4, dtype=torch.int64)) == (0.0, False)
    assert image_dice(torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 0, 255]])) == (1.0, False)


def test_a_score_counts_lesion_free_images_apart():
    score = Score.of([0.8, 0.0], [1.0, 0.0])
    assert (score.dice, score.missed, score.false, score.selection) == (0.4, 0.5, 0.5, 0.45)
    assert Score.of([], [1.0]).dice is None


def test_evaluation_thresholds_at_one_half():
    class Brightness(nn.Module):
        def __init__(self):
            super().__init__()
            self.level = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            return x - self.level

    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    images[0, 0, :2] = 200
    masks = (images[:, 0] > 100).to(torch.uint8)
    assert evaluate(Brightness(), images, masks) == Score(1.0, 0.0, 0.0, 1.0)


def test_a_loss_that_is_no_number_stops_with_step_and_cases(tmp_path):
    class Broken(TinyNet):
        def forward(self, x):
            return super().forward(x) * float("nan")

    with pytest.raises(SubjectError, match=r"step 1, cases 0-\d+, 0-\d+, 0-\d+, 0-\d+: the loss is no number"):
        train(Broken, cases(12, 0), cases(5, 1), recipe=SMALL, out=tmp_path, log=lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_training_set_of_one_class_is_refused(tmp_path):
    def only(count, seed):
        for case in cases(count, seed):
            yield Case(case.ref, case.image, np.zeros_like(case.reference))

    with pytest.raises(UsageError, match="at least two classes"):
        train(TinyNet, only(4, 0), cases(4, 1), recipe=SMALL, out=tmp_path)


def test_validation_with_training_cases_is_refused(tmp_path):
    with pytest.raises(UsageError, match="in the training and in the validation part"):
        train(TinyNet, cases(4, 0), cases(4, 0), recipe=SMALL, out=tmp_path)


def test_a_loss_for_two_classes_refuses_three(tmp_path):
    with pytest.raises(UsageError, match="another number of classes"):
        train(TinyNet, cases(4, 0), cases(4, 1), recipe=SMALL, out=tmp_path, classes=3, objective=Objective(classes=2))


def test_a_checkpoint_is_not_continued_with_other_images(tmp_path):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, log=interrupt)
    with pytest.raises(UsageError, match="another training"):
        train(TinyNet, cases(12, 7), cases(5, 1), recipe=SMALL, out=tmp_path, seed=1, log=lambda line: None)


def test_a_recipe_can_end_early_and_tells_its_progress(tmp_path):
    lines, steps = [], []
    recipe = replace(SMALL, epochs=9, lr=0.0, patience=2, averaging=0.0)
    run(tmp_path, recipe, log=lines.append, progress=lambda done, total: steps.append((done, total)))
    assert len(lines) == 3  # the first epoch is the best, two more bring nothing
    assert steps[-1] == (12, 36)


def test_side_inputs_and_statistics_come_from_images_before_augmentation(tmp_path):
    seen = []

    class Sided(TinyNet):
        def forward(self, x, side=None):
            if self.training:
                seen.append(side)
            return super().forward(x)

    def prepare(network, images, masks):
        assert images.dtype == torch.uint8
        return images.float().mean(dim=(1, 2, 3)).unsqueeze(1)

    def loss(network, logits, masks, side):
        assert side is seen[-1]
        return segmentation_loss(logits, masks)

    objective = Objective(prepare=prepare, loss=loss)
    train(Sided, cases(12, 0), cases(5, 1), recipe=SMALL, out=tmp_path, objective=objective, log=lambda line: None)
    means = {round(float(value), 4) for side in seen for value in side}
    assert len(means) <= 12  # as many values as images, whatever the augmentation


def test_warm_up_and_the_encoders_own_rate():
    recipe = Recipe(epochs=10, images_per_epoch=40, batch=4, lr=1e-4, encoder_lr=1e-5, warmup_epochs=5)
    shares = [recipe.share(step) for step in range(100)]
    assert shares[49] == 1.0
    assert np.allclose(np.diff(shares[:50]), 1 / 50)
    assert np.allclose(shares[50:], [0.5 * (1 + np.cos(np.pi * (k + 1) / 50)) for k in range(50)])

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)

    network = Two()
    groups = _State.start(network, recipe, "cpu").optimiser.param_groups
    peaks = {id(parameter): group["peak"] for group in groups for parameter in group["params"]}
    assert [peaks[id(p)] for p in network.encoder.parameters()] == [1e-5, 1e-5]
    assert [peaks[id(p)] for p in network.head.parameters()] == [1e-4, 1e-4]


def test_strided_depthwise_convolutions_stay_in_float32():
    network = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=4), nn.Conv2d(4, 4, 1))
    names = list(network.state_dict())
    x = torch.randn(1, 4, 9, 9)
    expected = network[0](x)
    _spare_strided_depthwise(network)
    assert list(network.state_dict()) == names
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network[0](x), expected)
        assert network(x).dtype == torch.bfloat16
