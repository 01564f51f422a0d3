"""Arrays of other libraries on their way in and out: any strides, types, devices, versions of the protocol."""

from __future__ import annotations

import array
import math
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest

from easyroutine import EasyroutineError, Tensor
from easyroutine.errors import ExchangeError, InputError, MissingPackageError
from easyroutine.interpretability import ExtractionConfig, HookedModel, Intervention
from easyroutine.interpretability.tools import LogitLens
from easyroutine.tensors import as_tensor, handed_out

CONFIG = ExtractionConfig(extract_resid_out=True, extract_head_out=True, extract_last_layernorm=True)
IDS = [5, 6, 7, 8]


def listed(value: Any) -> Any:
    return as_tensor(value, "value").tolist()


def counted(*shape: int) -> Tensor:
    count = math.prod(shape)
    return Tensor.from_bytes(struct.pack(f"{count}f", *range(count)), shape, "float32")


VIEWS: dict[str, Callable[[Any], Any]] = {
    "last of one row": lambda x: x[:, -1:],
    "every other": lambda x: x[:, ::2],
    "a row": lambda x: x[0],
    "a column": lambda x: x[..., 1],
    "nothing": lambda x: x[:, 2:2],
    "an axis of one": lambda x: x[None, :, 1:2],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))
@pytest.mark.parametrize("rows", [1, 2])
def test_views_of_the_package_s_own_tensors_come_in(view: Callable[[Any], Any], rows: int) -> None:
    given = view(counted(rows, 3, 4))
    assert listed(given) == given.tolist()


@pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int8", "uint32", "bool", ">f4", ">i2"])
def test_views_of_numpy_come_in(view: Callable[[Any], Any], rows: int, kind: str) -> None:
    numpy = pytest.importorskip("numpy")
    whole = numpy.arange(rows * 12).reshape(rows, 3, 4).astype(kind)
    for given in (view(whole), view(whole[:, ::-1]), view(whole.transpose(0, 2, 1))):
        assert listed(given) == given.astype("float32").tolist()
        given.flags.writeable = False
        assert listed(given) == given.astype("float32").tolist()
    assert listed(numpy.broadcast_to(whole[0, 0], (3, 4))) == [whole[0, 0].astype("float32").tolist()] * 3
    assert listed(whole[0, 0, 1]) == float(whole[0, 0, 1])
    odd = numpy.frombuffer(b"\0" + struct.pack("2f", 1, 2), dtype="float32", offset=1)
    assert listed(odd) == [1, 2]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda n: n.array([1 + 2j]), "complex128"),
        (lambda n: n.ma.masked_array([1.0, 2.0], mask=[False, True]), "filled"),
        (lambda n: n.array(["a"]), "does not hold numbers"),
        (lambda n: n.array([None, 1]), "does not hold numbers"),
        (lambda n: n.array([1e300]), "beyond float32"),
        (lambda n: n.array([2**64 - 1], dtype="uint64"), "beyond int64"),
        (lambda n: n.array([1], dtype="datetime64[s]"), "does not hold numbers"),
    ],
)
def test_arrays_without_such_numbers_are_refused_by_name(make: Callable[[Any], Any], said: str) -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(ExchangeError, match=f"^this one: .*{said}|{said}"):
        as_tensor(make(numpy), "this one")


def test_lists_of_numbers_and_rows_come_in() -> None:
    assert listed([[1, 2.5], (3, True)]) == [[1, 2.5], [3, 1]]
    assert listed([counted(2), counted(2)]) == [[0, 1], [0, 1]]
    assert listed([]) == [] and listed(3) == 3 and listed([math.inf]) == [math.inf]
    endless: list[Any] = []
    endless.append(endless)
    for wrong in ([[1], [2, 3]], ["a"], [None], [1e39], [10**400], [counted(2), counted(3)], endless, {1: 2}):
        with pytest.raises(InputError, match="^these: "):
            as_tensor(wrong, "these")


class OldLibrary:
    """An array of a library from before DLPack had versions."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.numbers.__dlpack__()


class NewLibrary(OldLibrary):
    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None) -> Any:  # type: ignore[override]
        assert max_version is not None
        return self.numbers.__dlpack__(max_version=max_version)


class OnAnotherDevice(OldLibrary):
    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


class Broken(OldLibrary):
    def __dlpack__(self, stream: Any = None) -> Any:
        raise RuntimeError("no")


class NoCapsule(OldLibrary):
    def __dlpack__(self, stream: Any = None) -> Any:
        return 7


class BadDevice(OldLibrary):
    def __dlpack_device__(self) -> Any:
        return "cpu"


@pytest.mark.parametrize("library", [OldLibrary, NewLibrary])
def test_every_version_of_the_protocol_is_spoken(library: type[OldLibrary]) -> None:
    for numbers in (counted(2, 3), counted(2, 3)[:, ::-2], counted(2, 3)[:, 1], counted(1, 3)[:, -1:]):
        assert listed(library(numbers)) == numbers.tolist() == Tensor.from_dlpack(library(numbers)).tolist()


@pytest.mark.parametrize("library", [OnAnotherDevice, Broken, NoCapsule, BadDevice])
def test_what_is_not_handed_over_is_an_error_of_the_package(library: type[OldLibrary]) -> None:
    for read in (Tensor.from_dlpack, lambda x: as_tensor(x, "it")):
        with pytest.raises(EasyroutineError) as raised:
            read(library(counted(2)))
        assert isinstance(raised.value, (ValueError, BufferError, TypeError))
    for wrong in (3, "a", object()):
        with pytest.raises(EasyroutineError):
            Tensor.from_dlpack(wrong)


def test_a_consumer_is_refused_as_the_protocol_says() -> None:
    with pytest.raises(BufferError):
        counted(2).__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="negative step"):
        counted(2)[::-1].__dlpack__(copy=False)


@pytest.mark.parametrize("package", ["torch", "numpy"])
def test_a_library_that_is_not_there_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=f"pip install {package}"):
        getattr(counted(2), package)()
    monkeypatch.setenv("EASYROUTINE_TENSORS", package)
    with pytest.raises(MissingPackageError, match=package):
        handed_out(counted(2))


def test_whole_numbers_stay_whole() -> None:
    numpy = pytest.importorskip("numpy")
    large = numpy.array([2**53 + 1, -5])
    assert Tensor.from_dlpack(large).tolist() == [2**53 + 1, -5]
    assert Tensor.from_dlpack(large).dtype == "int64" and Tensor.from_dlpack(large).float().dtype == "float32"


def put(model: HookedModel, values: Any, layer: int = 1) -> Any:
    """The stream after a layer whose last token is replaced."""
    change = Intervention("full", f"resid_out_{layer}", ["last"], patching_values=values)
    cache = model.forward([IDS], ["last"], extraction_config=CONFIG, interventions=[change])
    return as_tensor(cache[f"resid_out_{layer}"], "stream").tolist()


def test_slices_of_a_cache_are_put_into_another_run(llama: HookedModel) -> None:
    """Of whatever library the cache is."""
    cache = llama.forward([[1, 2, 3]], ["all"], extraction_config=CONFIG)
    expected = as_tensor(cache["resid_out_1"], "").tolist()[0][-1]
    for values in (cache["resid_out_1"][:, -1:], cache["resid_out_1"][:, -1], cache["resid_out_1"][0, -1]):
        assert put(llama, values) == [[expected]]
    # What a cache says more of is taken as the values themselves.
    head = Intervention("full", "head_out_L1H0", ["last"], patching_values=cache["head_out_L1H0"][:, -1:])
    llama.forward([IDS], ["last"], extraction_config=CONFIG, interventions=[head])
    llama.forward(
        [IDS],
        ["last"],
        extraction_config=CONFIG,
        interventions=[Intervention.mean("resid_out_1", cache["resid_out_1"][:, ::2])],
    )
    one = llama.forward([[1]], ["all"], extraction_config=CONFIG)
    assert put(llama, one["resid_out_1"]) == as_tensor(one["resid_out_1"], "").tolist()
    whole = Intervention("full", "head_out_L1H0", ["last"], patching_values=one["head_out_L1H0"])
    llama.forward([IDS], ["last"], extraction_config=CONFIG, interventions=[whole])


def test_slices_of_a_cache_are_read_by_a_lens(llama: HookedModel) -> None:
    lens = LogitLens.from_model(llama)
    cache = llama.forward([IDS], ["all"], extraction_config=CONFIG)
    full = as_tensor(lens.compute(cache, "resid_out_1", norm="own")["logit_lens_resid_out_1"], "").tolist()
    part = lens.compute({"resid_out_1": cache["resid_out_1"][:, 1::2]}, "resid_out_1", norm="own")
    assert as_tensor(part["logit_lens_resid_out_1"], "").tolist() == [full[0][1::2]]
    last = {"resid_out_1": cache["resid_out_1"][:, -1:]}
    last["last_layernorm"] = {name: value[:, -1:] for name, value in cache["last_layernorm"].items()}
    found = as_tensor(lens.compute(last, "resid_out_1")["logit_lens_resid_out_1"], "").tolist()
    whole = as_tensor(lens.compute(cache, "resid_out_1")["logit_lens_resid_out_1"], "").tolist()
    assert found == [whole[0][-1:]]


def test_a_hook_may_return_any_view(llama: HookedModel) -> None:
    def reversed_and_back(value: Any, key: str) -> Any:
        return OldLibrary(as_tensor(value, "value")[:, ::-1][:, ::-1])

    plain = llama.forward([IDS], ["all"], extraction_config=CONFIG)
    remove = llama.register_forward_hook("resid_out_0", reversed_and_back)
    try:
        hooked = llama.forward([IDS], ["all"], extraction_config=CONFIG)
    finally:
        remove()
    assert listed(hooked["logits"]) == listed(plain["logits"])


def test_lists_and_buffers_steer(llama: HookedModel) -> None:
    width = llama.model_config.hidden_size
    expected = [[[1.0] * width]]
    assert put(llama, [1.0] * width) == put(llama, [[[1] * width]]) == expected
    numpy = pytest.importorskip("numpy")
    assert put(llama, numpy.ones(width, dtype=">f8")) == expected
    assert put(llama, numpy.array(array.array("d", [1.0] * width))) == expected


@pytest.mark.torch
@pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(
    "kind", ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"]
)
def test_views_of_torch_come_in(view: Callable[[Any], Any], rows: int, kind: str) -> None:
    import torch

    whole = torch.arange(rows * 12).reshape(rows, 3, 4).to(getattr(torch, kind))
    for given in (view(whole), view(whole.transpose(1, 2)), view(whole.flip(1)), view(whole[:1].expand(5, 3, 4))):
        assert listed(given) == given.float().tolist()
    if whole.is_floating_point():
        assert listed(view(whole.clone().requires_grad_())) == view(whole).float().tolist()


@pytest.mark.torch
def test_every_tensor_of_torch_comes_in_or_is_refused_by_name() -> None:
    import torch

    assert listed(torch.nn.Parameter(torch.ones(2))) == [1, 1]
    assert listed(torch.tensor(3)) == 3
    assert listed(torch.ones(1, 4).expand(1, 4)[:, -1:]) == [[1]]
    assert listed([torch.ones(2), torch.zeros(2)]) == [[1, 1], [0, 0]]
    assert listed(torch._neg_view(torch.ones(2))) == [-1, -1]
    assert listed(torch.empty(0, 3)) == []
    wrong = {
        "to_dense": torch.eye(2).to_sparse(),
        "complex": torch.ones(2, dtype=torch.complex64).conj(),
        "meta": torch.ones(2, device="meta"),
        "beyond float32": torch.tensor([1e300], dtype=torch.float64),
    }
    for said, tensor in wrong.items():
        with pytest.raises(ExchangeError, match=f"(?s)^it: .*{said}"):
            as_tensor(tensor, "it")


@pytest.mark.torch
def test_torch_takes_every_view() -> None:
    import torch

    whole = counted(2, 3, 4)
    for view in (whole, whole[:, ::-1], whole[0], whole[:, -1:], whole[:, 2:2], whole[..., ::-2], whole[1, 2, 3]):
        assert view.torch().tolist() == torch.from_dlpack(view).tolist() == view.tolist()
    assert whole[:, ::2].torch().data_ptr() == whole.data_ptr()


@pytest.mark.torch
def test_the_documented_idioms_run_with_torch(llama: HookedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices, gradients, halves, hooks that return views: activations are torch's here."""
    import torch

    monkeypatch.setenv("EASYROUTINE_TENSORS", "torch")
    cache = llama.forward([[1, 2, 3]], ["all"], extraction_config=CONFIG)
    stream = cache["resid_out_1"]
    assert isinstance(stream, torch.Tensor)
    for values in (
        stream[:, -1:],
        stream[:, -1:].clone().requires_grad_(),
        torch.nn.Parameter(stream[:, -1]),
        stream.transpose(1, 2)[..., -1:].transpose(1, 2),
        stream.double()[:, -1:],
    ):
        assert put(llama, values) == stream[:, -1:].tolist()
    half = stream[:, -1:].bfloat16()
    assert put(llama, half) == half.float().tolist()
    seen = []

    def hook(value: Any, key: str) -> Any:
        seen.append(type(value))
        return value.transpose(1, 2).contiguous().transpose(1, 2).double()

    plain = llama.forward([IDS], ["all"], extraction_config=CONFIG)["logits"]
    remove = llama.register_forward_hook("resid_out_0", hook)
    try:
        assert torch.equal(llama.forward([IDS], ["all"], extraction_config=CONFIG)["logits"], plain)
    finally:
        remove()
    assert seen == [torch.Tensor]
    lens = LogitLens.from_model(llama)
    own = lens.compute({"resid_out_1": stream[:, -1:]}, "resid_out_1", norm="own")["logit_lens_resid_out_1"]
    assert torch.equal(own, lens.compute(cache, "resid_out_1", norm="own")["logit_lens_resid_out_1"][:, -1:])
