"""The package's own tensor, and the way to those of other libraries."""

from __future__ import annotations

import copy
import inspect
import pickle
import struct

import pytest

from easyroutine import Tensor
from easyroutine.errors import MissingPackageError


def counted(*shape: int) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    return Tensor.from_bytes(struct.pack(f"{count}f", *range(count)), shape, "float32")


def test_it_knows_its_shape_and_type() -> None:
    tensor = counted(2, 3, 4)
    assert (tensor.shape, tensor.ndim, tensor.dtype, len(tensor)) == ((2, 3, 4), 3, "float32", 2)
    assert (tensor.numel(), tensor.nbytes, tensor.device) == (24, 96, "cpu")


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (1, [3.0, 4.0, 5.0]),
        (-1, [3.0, 4.0, 5.0]),
        ((0, -1), 2.0),
        ((slice(None), 1), [1.0, 4.0]),
        ((..., 0), [0.0, 3.0]),
        ((slice(None), slice(None, None, -1)), [[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]),
        ((slice(5, 9),), []),
        ((None, 0), [[0.0, 1.0, 2.0]]),
        ((slice(None), [2, 0]), [[2.0, 0.0], [5.0, 3.0]]),
        ([1, 1], [[3.0, 4.0, 5.0], [3.0, 4.0, 5.0]]),
    ],
)
def test_indices_are_those_of_numpy(index: object, expected: object) -> None:
    assert counted(2, 3)[index].tolist() == expected


@pytest.mark.parametrize("index", [2, -3, (0, 3), (0, 0, 0), [5]])
def test_an_index_outside_is_an_error(index: object) -> None:
    with pytest.raises(IndexError):
        counted(2, 3)[index]


@pytest.mark.parametrize("index", ["a", 1.5, (0, "b")])
def test_an_index_that_is_none_names_its_type(index: object) -> None:
    with pytest.raises(TypeError, match=r"numpy\(\)"):
        counted(2, 3)[index]


def test_it_is_iterated_over_its_first_axis() -> None:
    assert [row.tolist() for row in counted(2, 2)] == [[0.0, 1.0], [2.0, 3.0]]


def test_one_number_is_a_number() -> None:
    one = counted(2, 2)[1, 0]
    assert (one.item(), float(one), int(one), bool(one), one.shape) == (2.0, 2.0, 2, True, ())
    with pytest.raises(ValueError, match="is not one number"):
        counted(2).item()


def test_bytes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not make"):
        Tensor.from_bytes(b"\0" * 8, [3], "float32")
    with pytest.raises(ValueError, match="do not make"):
        Tensor.from_bytes(b"\0" * 9, [2], "float32")
    with pytest.raises(TypeError, match="float64"):
        Tensor.from_bytes(b"", [0], "float64")
    with pytest.raises(ValueError, match="do not make"):
        Tensor.from_bytes(b"", [2**40, 2**40], "float32")


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_are_equal_and_apart(make: object) -> None:
    view = counted(2, 3)[:, 1:]
    same = make(view)  # type: ignore[operator]
    assert same == view and same.tolist() == [[1.0, 2.0], [4.0, 5.0]]
    assert same.data_ptr() != view.data_ptr()


def test_tensors_are_equal_by_shape_and_numbers() -> None:
    assert counted(2, 2) == counted(2, 2)
    assert counted(4) != counted(2, 2)
    assert counted(2) != [0.0, 1.0]


def test_numpy_shares_the_memory() -> None:
    numpy = pytest.importorskip("numpy")
    tensor = counted(2, 3)
    array = tensor.numpy()
    assert array.ctypes.data == tensor.data_ptr()
    array[0, 0] = 9
    assert tensor[0, 0].item() == 9
    view = numpy.asarray(tensor[:, ::-1])
    assert view.tolist() == [[2, 1, 9], [5, 4, 3]]
    # The array keeps the memory alive.
    del tensor
    assert array.sum() == 24
    assert numpy.from_dlpack(counted(3)).tolist() == [0, 1, 2]


@pytest.mark.torch
def test_torch_shares_the_memory() -> None:
    import torch

    tensor = counted(2, 3)
    shared = tensor.torch()
    assert shared.data_ptr() == tensor.data_ptr() and shared.dtype == torch.float32
    shared[1, 2] = 7
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 7]]
    assert tensor[:, ::2].torch().tolist() == [[0, 2], [3, 7]]
    del tensor
    assert shared.sum().item() == 17
    if "copy" in inspect.signature(torch.from_dlpack).parameters:
        assert torch.from_dlpack(counted(2), copy=True).tolist() == [0, 1]


@pytest.mark.torch
def test_functions_of_torch_take_it() -> None:
    import torch

    top = torch.topk(counted(4), 2)
    assert top.indices.tolist() == [3, 2]
    assert torch.cat([counted(2), counted(1)]).tolist() == [0, 1, 0]
    assert torch.allclose(counted(2), torch.tensor([0.0, 1.0]))


@pytest.mark.torch
def test_tensors_of_torch_come_in() -> None:
    import torch

    assert Tensor.from_dlpack(torch.arange(3)).dtype == "int64"
    assert Tensor.from_dlpack(torch.ones(2, 2)).tolist() == [[1, 1], [1, 1]]
    assert Tensor.from_dlpack(torch.ones(2, dtype=torch.float64)).dtype == "float32"
    with pytest.raises((TypeError, BufferError)):
        Tensor.from_dlpack(torch.ones(2, dtype=torch.complex64))


def test_arithmetic_is_that_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    a, b = counted(2, 3), counted(2, 3)[:, ::-1]
    array, other = a.numpy(), b.numpy()
    pairs = [
        (a - b, array - other),
        (a + b, array + other),
        (a * 2, array * 2),
        (0.5 * a, 0.5 * array),
        (1 - a, 1 - array),
        (1 + a, 1 + array),
        (b / (a + 1), other / (array + 1)),
        (1 / (a + 1), 1 / (array + 1)),
        (a @ b.numpy().T, array @ other.T),
        (array @ b.numpy().T, array @ other.T),
        (a**2, array**2),
        (2**a, 2**array),
        (-a, -array),
        (abs(-a), array),
        (a - other, array - other),
        (other - a, other - array),
        (a[0] - b, array[0] - other),
        (a > b, array > other),
        (a >= 1, array >= 1),
        (a < b, array < other),
        (a <= 1, array <= 1),
        (a.mean(), array.mean()),
        (a.mean(0), array.mean(0)),
        (a.mean(axis=-1, keepdims=True), array.mean(-1, keepdims=True)),
        (a.mean(dim=-1, keepdim=True), array.mean(-1, keepdims=True)),
        (a.sum(1), array.sum(1)),
        (a.min(1), array.min(1)),
        (a.max(), array.max()),
        (a.argmax(1), array.argmax(1)),
        (b.argmin(1), other.argmin(1)),
        (numpy.mean(a, axis=0), array.mean(0)),
        (numpy.stack([a, b]), numpy.stack([array, other])),
    ]
    for found, expected in pairs:
        assert isinstance(found, (numpy.ndarray, numpy.generic)) and found.dtype == expected.dtype
        assert numpy.array_equal(found, expected)
    whole = Tensor.from_bytes(struct.pack("2q", 3, 5), [2], "int64")
    assert (whole + 1).tolist() == [4, 6] and (whole @ whole) == 34
    with pytest.raises(ValueError, match="broadcast"):
        counted(2, 3) - counted(4)


def test_arithmetic_without_numpy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easyroutine.arithmetic.is_installed", lambda package: False)
    for calculate in (lambda t: t - t, lambda t: 2 * t, lambda t: -t, lambda t: t > 0, lambda t: t.mean(0)):
        with pytest.raises(MissingPackageError, match="needs numpy or torch") as caught:
            calculate(counted(2, 3))
        assert caught.value.hint == "pip install numpy"


def test_a_method_of_other_libraries_is_an_error_that_names_them() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'topk'.*numpy\(\)"):
        counted(2).topk(1)  # type: ignore[attr-defined]
    assert not hasattr(counted(2), "detach")


@pytest.mark.torch
def test_arithmetic_with_tensors_of_torch_is_that_of_torch() -> None:
    import torch

    tensor, ones = counted(2, 2), torch.ones(2, 2)
    for found in (tensor - ones, tensor + ones - 2, ones * tensor - 1):
        assert isinstance(found, torch.Tensor) and found.dtype == torch.float32
    assert (tensor - ones).tolist() == [[-1, 0], [1, 2]]
    assert (ones - tensor).tolist() == [[1, 0], [-1, -2]]
