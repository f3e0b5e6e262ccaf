import torch

from fl.aggregate import WeightedMean


def mean(*pairs):
    rule = WeightedMean()
    for w_k, n_k in pairs:
        rule.add(w_k, n_k)
    return rule.result()


def test_weights_are_numbers_of_examples():
    result = mean(({"a": torch.tensor([1.0, 2.0])}, 3), ({"a": torch.tensor([5.0, -2.0])}, 1))
    assert result["a"].tolist() == [2.0, 1.0]


def test_equal_models_have_themselves_as_mean_to_the_bit():
    w = {"a": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    assert torch.equal(mean((w, 7), (w, 601), (w, 13))["a"], w["a"])


def test_integer_buffers_take_the_maximum_and_keep_their_type():
    result = mean(({"n": torch.tensor(3)}, 1), ({"n": torch.tensor(8)}, 1), ({"n": torch.tensor(5)}, 9))
    assert result["n"].item() == 8
    assert result["n"].dtype == torch.int64


def test_updates_are_left_alone_and_dtypes_kept():
    w = {"a": torch.ones(2, dtype=torch.float32)}
    result = mean((w, 2), ({"a": torch.zeros(2)}, 2))
    assert w["a"].tolist() == [1.0, 1.0]
    assert result["a"].dtype == torch.float32


def test_memory_format_survives():
    w = torch.randn(8, 3, 5, 5).to(memory_format=torch.channels_last)
    assert mean(({"a": w}, 1), ({"a": w}, 2))["a"].is_contiguous(memory_format=torch.channels_last)
