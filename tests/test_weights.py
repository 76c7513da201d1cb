import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.toys import TinyNet
from xaiseg.errors import UsageError
from xaiseg.weights import file_digest, fit_weights, loads_without_code, read_weights


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_common_wrapping_is_found(tmp_path):
    state = TinyNet(seed=3).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors"), state)
    wrapped = [state, {"state_dict": state, "epoch": 4}, {"model": state}, {"ema": {"state_dict": state}}]
    for index, held in enumerate(wrapped):
        torch.save(held, tmp_path / f"{index}.pth")
        assert same(read_weights(tmp_path / f"{index}.pth"), state)
        assert loads_without_code(tmp_path / f"{index}.pth")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_prefixes_of_wrappers_are_taken_off(prefix):
    state = TinyNet(seed=3).state_dict()
    network = TinyNet()
    fit_weights(network, {prefix + name: value for name, value in state.items()})
    assert same(network.state_dict(), state)


def test_a_prefix_that_the_model_has_itself_stays():
    network = nn.ModuleDict({"model": nn.Linear(2, 1)})
    fit_weights(network, {"model.weight": torch.ones(1, 2), "model.bias": torch.ones(1)})
    assert (network["model"].weight == 1).all()


class Evil:
    def __reduce__(self):
        return (exec, ("import builtins; builtins.xaiseg_was_here = True",))


def test_a_pickle_that_executes_code_needs_trust(tmp_path):
    import builtins

    torch.save({"state_dict": TinyNet().state_dict(), "extra": Evil()}, tmp_path / "evil.pth")
    assert not loads_without_code(tmp_path / "evil.pth")
    with pytest.raises(UsageError, match=r"model.yaml:3: .*execute code.*trust: true"):
        read_weights(tmp_path / "evil.pth", where="model.yaml:3")
    assert not hasattr(builtins, "xaiseg_was_here")
    assert same(read_weights(tmp_path / "evil.pth", trust=True), TinyNet().state_dict())
    assert builtins.xaiseg_was_here
    del builtins.xaiseg_was_here


def test_a_whole_module_is_a_pickle(tmp_path):
    torch.save(TinyNet(), tmp_path / "module.pth")
    with pytest.raises(UsageError, match="execute code"):
        read_weights(tmp_path / "module.pth")
    assert same(read_weights(tmp_path / "module.pth", trust=True), TinyNet().state_dict())


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_and_missing_files(tmp_path, name):
    with pytest.raises(UsageError, match="no such file"):
        read_weights(tmp_path / name)
    (tmp_path / name).write_bytes(b"nothing of use")
    with pytest.raises(UsageError, match=r"holds no weights|damaged"):
        read_weights(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError):
        read_weights(tmp_path / name)


def test_a_file_without_a_state_dict(tmp_path):
    torch.save({"epoch": 3, "lr": [1.0]}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"no state dict.*epoch"):
        read_weights(tmp_path / "w.pth")


def test_an_untrusted_pickle_of_another_kind(tmp_path):
    with (tmp_path / "w.pth").open("wb") as stream:
        pickle.dump({"weights": [1, 2, 3]}, stream)
    with pytest.raises(UsageError):
        read_weights(tmp_path / "w.pth")


def test_what_does_not_fit_is_named():
    state = dict(TinyNet().state_dict())
    state["extra.weight"] = torch.zeros(1)
    state["head.bias"] = torch.zeros(5)
    del state["down.bias"]
    with pytest.raises(UsageError) as caught:
        fit_weights(TinyNet(), state, where="model.yaml:4")
    for words in ("model.yaml:4", "down.bias", "extra.weight", "(5,)", "(1,)"):
        assert words in str(caught.value)


def test_the_digest_of_a_folder_is_that_of_names_and_contents(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"1")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")
    (tmp_path / "b" / "x.png").rename(tmp_path / "b" / "y.png")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
