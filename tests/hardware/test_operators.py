import pytest
from torch import nn

from xaiseg.hardware.operators import GATES, OPERATORS, POSITIONAL, Operation, operation, pair


def test_an_operator_has_one_reader():
    with pytest.raises(ValueError, match="registered twice"):
        operation(nn.ReLU)(lambda arguments: Operation("relu"))
    assert not GATES & set(OPERATORS)


def test_methods_have_named_arguments():
    assert {key for key in OPERATORS if isinstance(key, str)} <= set(POSITIONAL)


def test_strides_of_poolings_default_to_the_window():
    assert OPERATORS[nn.MaxPool2d]({"kernel_size": (3, 2)}) == Operation("max_pool", (3, 2), (3, 2))
    assert OPERATORS[nn.AvgPool2d]({"kernel_size": 4, "stride": None}) == Operation("average_pool", (4, 4), (4, 4))
    assert pair([1, 2]) == (1, 2)
