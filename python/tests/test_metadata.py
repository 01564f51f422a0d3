"""What is said of a run comes back equal and of its class, or is refused with its place."""

from __future__ import annotations

import collections
import enum
import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from easyroutine import EasyroutineError, Tensor
from easyroutine.interpretability import (
    ActivationLoader,
    ActivationSaver,
    ExtractionConfig,
    HookedModel,
    Intervention,
)

CONFIG = ExtractionConfig(extract_resid_out=True)
LARGE = 2**53 + 1


def kept(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Metadata after a journey through a store: as it is loaded, which is as it is listed."""
    saver = ActivationSaver(folder, "metadata")
    saver.save({"x": 1}, "org/model", ["last"], None, CONFIG, other_metadata=given)
    result = ActivationLoader.from_saver(saver).query()
    loaded, listed = result.load(-1)[1], result.results[-1][3]
    assert same({key: loaded[key] for key in given}, {key: listed[key] for key in given})
    return {key: loaded[key] for key in given}


def same(a: Any, b: Any) -> bool:
    """Equal, and of one class at every depth."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=True)
        return len(a) == len(b) and all(same(one, two) and same(a[one], b[two]) for (one, _), (two, _) in pairs)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "dtype") and not isinstance(a, Tensor):
        equal = (a == b) | ((a != a) & (b != b))
        return a.dtype == b.dtype and a.shape == b.shape and bool(equal.all())
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and (a == b or (a != a and b != b))
    return bool(a == b)


PLAIN: dict[str, Any] = {
    "none": None,
    "flags": [True, False],
    "small": [0, -1, 2**63, 2**64 - 1, -(2**63)],
    "large": [2**64, -(2**63) - 1, 10**400, -(10**5000)],
    "floats": [1.0, -0.0, 0.1, 1e300, 5e-324, math.inf, -math.inf, math.nan],
    "complex": [1 + 2j, complex(-0.0, math.inf)],
    "texts": ["", "ä\n\0", "0x10", "nan"],
    "bytes": [b"", b"\0\xff", bytearray(b"a")],
    "path": Path("a/b"),
    "tuple": (1, (2, [3, ()]), {"a": (4,)}),
    "sets": [{3, 1, 2}, frozenset({"b", "a"}), set()],
    "keys": {1: "a", (4, 9): "b", False: "c", None: "d", 1.5: "e", "a/b~c": (1,), "": 2},
    "deep": {"a": [{"b": ({"c": {5: [2**70]}},)}]},
    "empty": [{}, [], ()],
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    assert same(kept(tmp_path, {name: PLAIN[name]}), {name: PLAIN[name]})


def test_arrays_come_back_at_any_depth(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    kinds = [
        "bool",
        "int8",
        "uint16",
        "int32",
        "int64",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    ]
    given: dict[str, Any] = {
        "kinds": {kind: numpy.arange(6).reshape(2, 3).astype(kind) * numpy.array(1).astype(kind) for kind in kinds},
        "whole": numpy.array([16777217, LARGE, -(2**63)]),
        "complex": (numpy.array([[1 + 2j, -3j]]), [numpy.array(1 - 1j)]),
        "orders": [numpy.array([1, 2], dtype=kind) for kind in (">i4", ">f8", ">c16", "<f4")],
        "shapes": [numpy.zeros((0, 3)), numpy.array(5.5), numpy.ones((2, 3))[:, ::-2], numpy.ones((1, 2)).T],
        "numbers": [
            numpy.float32(0.1),
            numpy.int64(LARGE),
            numpy.bool_(True),
            numpy.complex64(1j),
            numpy.float64("nan"),
        ],
        "nan": numpy.array([math.nan, math.inf], dtype="float32"),
        "own": [Tensor.from_bytes(b"\0" * 8, [1], "int64"), Tensor.from_bytes(b"\0" * 8, [2, 1], "float32")],
    }
    found = kept(tmp_path, given)
    for name, value in given.items():
        assert same(found[name], value), name


@pytest.mark.torch
def test_tensors_of_torch_come_back_at_any_depth(tmp_path: Path) -> None:
    import torch

    kinds = ["bool", "int8", "uint8", "int64", "bfloat16", "float16", "float64", "complex64", "complex128"]
    given: dict[str, Any] = {
        "kinds": {kind: torch.arange(4).reshape(2, 2).to(getattr(torch, kind)) for kind in kinds},
        "whole": (torch.tensor([16777217, LARGE]), {"a": [torch.tensor(3)]}),
        "complex": [torch.tensor([1 + 2j]).conj(), torch.ones(2, 1).expand(2, 3), torch.empty(0, 2)],
    }
    found = kept(tmp_path, given)
    for name, value in given.items():
        assert same(found[name], value), name
    weight = torch.nn.Parameter(torch.ones(2))
    assert torch.equal(kept(tmp_path / "other", {"w": weight})["w"], weight.detach())


class Colour(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")
_ENDLESS: list[Any] = []
_ENDLESS.append(_ENDLESS)


@pytest.mark.parametrize(
    "wrong",
    [
        object(),
        Colour.RED,
        Point(1, 2),
        collections.OrderedDict(a=1),
        CONFIG,
        "\ud800",
        {"_tensor": 1},
        {b"a": 1},
        {1: "a", "1": "b"},
        _ENDLESS,
        print,
    ],
    ids=repr,
)
def test_what_would_not_come_back_is_refused_with_its_place(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(EasyroutineError, match=r"other_metadata\['a'\]\[0\]\['b'\]"):
        kept(tmp_path, {"a": [{"b": wrong}]})
    assert not ActivationLoader(tmp_path, "metadata").query().results
    with pytest.raises(EasyroutineError, match="other_metadata"):
        kept(tmp_path, {1: 2})  # type: ignore[dict-item]


def test_arrays_that_would_not_come_back_are_refused(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    masked = numpy.ma.masked_array([1.0], mask=[True])
    for wrong in (masked, numpy.array(["a"]), numpy.array([None]), numpy.str_("a"), numpy.ones(2, dtype="longdouble")):
        with pytest.raises(EasyroutineError, match=r"other_metadata\['a'\]\[1\]"):
            kept(tmp_path, {"a": [0, wrong]})


def test_what_is_saved_comes_back_in_its_class_too(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    given = {
        "n": 2**70,
        "x": numpy.arange(3),
        "y": [numpy.ones(2, dtype=">f4"), (math.nan, b"a", 1j)],
        "z": {"c": numpy.array([1j])},
        "one": numpy.float32(2.5),
    }
    saver = ActivationSaver(tmp_path)
    saver.save(given, "org/model", ["last"], None, CONFIG)
    found = ActivationLoader.from_saver(saver).query().load(-1)[0]
    assert same(found, given)


def test_runs_are_found_by_values_of_any_class(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    saver = ActivationSaver(tmp_path)
    given = {"window": (1, 2), "direction": numpy.arange(3.0), "seed": numpy.int64(4), "id": 2**70, "by": {1: "a"}}
    saver.save({}, "org/model", ["last"], None, CONFIG, other_metadata=given)
    loader = ActivationLoader.from_saver(saver)
    for key, value in given.items():
        assert len(loader.query(custom_keys={key: value})) == 1, key
    assert len(loader.query(custom_keys={"window": [1, 2], "seed": 4})) == 1
    assert len(loader.query(custom_keys={"direction": numpy.arange(4.0)})) == 0
    # What the record holds is plain for every other program.
    record = json.loads(Path(saver.base_dir, *loader.query().results[0][:3], "metadata.json").read_text("utf-8"))
    assert record["window"] == [1, 2] and record["seed"] == 4 and record["by"] == {"1": "a"}


def test_fields_of_rows_are_exact_or_refused(tmp_path: Path, llama: HookedModel) -> None:
    saver = ActivationSaver(tmp_path)
    row = {"input_ids": [[1, 2, 3]]}
    with pytest.raises(EasyroutineError, match="'id' of row 0 is a whole number beyond 64 bits"):
        llama.extract_to_store(saver, [{**row, "id": [2**64]}], ["last"], CONFIG)
    llama.extract_to_store(saver, [{**row, "id": [2**64 - 1]}], ["last"], CONFIG)
    assert ActivationLoader.from_saver(saver).query().load(-1)[0]["id"] == [2**64 - 1]


def test_a_cache_of_a_data_set_is_found_by_its_interventions(tmp_path: Path, llama: HookedModel) -> None:
    vector = [0.5] * llama.model_config.hidden_size
    values = Tensor.from_bytes(b"\0\0\0?" * len(vector), [len(vector)], "float32")
    steer = Intervention.add("resid_out_0", values, token_positions=["last", (0, 1)])
    saver = ActivationSaver(tmp_path)
    for interventions in ([], [steer]):
        cache = llama.extract_cache([[1, 2, 3], [4, 5]], ["last"], CONFIG, interventions=interventions)
        saver.save_cache(cache, tag="save_cache")
        saver.save(cache, llama, ["last"], None, CONFIG, tag="save")
        saver.save(cache, llama, ["last"], interventions, CONFIG, tag="explicit")
        llama.extract_to_store(saver, [[1, 2, 3]], ["last"], CONFIG, interventions=interventions, tag="store")
    loader = ActivationLoader.from_saver(saver)

    def tags(interventions: list[Intervention]) -> list[Any]:
        return [metadata["tag"] for *_, metadata in loader.query(interventions=interventions).results]

    everything = ["save_cache", "save", "explicit", "store"]
    assert tags([]) == tags([steer]) == everything
    # The same numbers are the same values, whatever holds them.
    assert tags([Intervention.add("resid_out_0", vector, token_positions=["last", (0, 1)])]) == everything
    assert tags([Intervention.add("resid_out_0", [1.0] * len(vector), token_positions=["last", (0, 1)])]) == []
    _, metadata = loader.query(interventions=[steer]).load(-1)
    assert metadata["interventions"][0]["strength"] == 1.0
    assert metadata["interventions"][0]["patching_values"].tolist() == vector
    # Both halves of a data set say the same of their run.
    first = llama.extract_cache([[1, 2, 3]], ["last"], CONFIG, interventions=[steer])
    first.cat(llama.extract_cache([[4, 5, 6]], ["last"], CONFIG, interventions=[steer]))
    saver.save_cache(first, tag="joined")
    assert tags([steer]) == [*everything, "joined"]


def test_a_model_is_found_by_what_it_was_opened_as(tmp_path: Path) -> None:
    saver = ActivationSaver(tmp_path)
    for name in ("SmolLM2-135M-Instruct.Q4_1", "smollm2", "org/name", "llama"):
        saver.save({}, name, ["last"], None, CONFIG)
    loader = ActivationLoader.from_saver(saver)

    def names(name: str) -> list[str]:
        return [metadata["model_name"] for *_, metadata in loader.query(model_name=name).results]

    assert names("smollm2") == ["SmolLM2-135M-Instruct.Q4_1", "smollm2"]
    assert names("SmolLM2-135M-Instruct.Q4_1") == ["SmolLM2-135M-Instruct.Q4_1"]
    assert names("org/name@main") == names("org/name") == ["org/name"]
    assert names(str(TINY / "llama")) == names("llama") == ["llama"]
    assert names("name") == []
