"""Names, arguments and order are those of the original: each of its public names is here, or the migration page says
what to use instead. ``original.json`` lists them, read off the sources of easyroutine 1.1.5."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY

from easyroutine import replaced
from easyroutine.interpretability import ActivationCache, HookedModel, HookedModelConfig, InterventionConfig, LogitLens
from easyroutine.interpretability.models import ModelConfig

ORIGINAL = json.loads((Path(__file__).parent / "original.json").read_text("utf-8"))["modules"]
PAGE = (ROOT / "docs/book/src/from-easyroutine.md").read_text("utf-8")
#: Callables whose arguments differ, each a row of the page.
OTHER_ARGUMENTS = {
    "HookedModel.predict": "`predict(k, strip, inputs=…)`",
    "HookedModel.compute_patching": "`compute_patching` without a query",
    "LogitLens.__init__": None,
    "ActivationCache.__init__": None,
    # As of every mapping: keywords are keys.
    "ActivationCache.update": None,
    "QueryResult.__init__": None,
}
#: What the original says it returns, where this package returns another thing; each a row of the page.
OTHER_RETURNS = {
    "HookedModel.generate": "`generate` with positions",
    "HookedModel.get_image_placeholder": None,
}
#: Defaults that are others, each a row of the page.
OTHER_DEFAULTS = {"HookedModelConfig.torch_dtype", "extraction_config", "other_metadata", "base_dir"}


def code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split())


def test_the_page_lists_what_is_replaced() -> None:
    rows = [f"| `{name}` | all of it | {instead} |" for name, instead in replaced.MODULES.items()]
    rows += [
        f"| `{place}` | {code(names)} | {instead} |"
        for place, entries in replaced.NAMES.items()
        for names, instead in entries.items()
    ]
    table = PAGE.partition("| in | of the original | instead |\n")[2].splitlines()[1:]
    assert table[: len(rows)] == rows, "\n".join(rows)
    # The rows name what is there, too.
    for name in re.findall(r"`(HookedModel|ActivationCache|LogitLens)\.(\w+)", "\n".join(rows)):
        kind = {"HookedModel": HookedModel, "ActivationCache": ActivationCache, "LogitLens": LogitLens}[name[0]]
        assert hasattr(kind, name[1]) or name == ("HookedModel", "interventions"), name


def is_replaced(place: str, name: str) -> bool:
    gone = any(f"{place}.{name}.".startswith(f"{module}.") for module in replaced.MODULES)
    return gone or any(name in names.split() for names in replaced.NAMES.get(place, {}))


def entries() -> list[Any]:
    found = []
    for module, names in ORIGINAL.items():
        for name, entry in names.items():
            found.append(pytest.param(module, name, entry, id=f"{module}.{name}"))
    return found


@pytest.mark.parametrize(("module", "name", "entry"), entries())
def test_a_name_is_here_or_on_the_page(module: str, name: str, entry: dict[str, Any]) -> None:
    place = module.removeprefix("easyroutine.")
    if is_replaced(place, name):
        # Whoever imports it is told, where its module is here at all.
        try:
            here = importlib.import_module(module)
        except ModuleNotFoundError:
            assert any(place.startswith(f"{gone}.") for gone in replaced.MODULES)
            return
        with pytest.raises(ImportError, match="instead: "):
            getattr(here, name)
        return
    found = getattr(importlib.import_module(module), name)
    if "arguments" in entry:
        check_arguments(found, name, entry)
    elif "class" in entry and found is not InterventionConfig:
        check_class(found, name, entry["class"])


def check_class(found: type, name: str, members: dict[str, Any]) -> None:
    for member, entry in members.items():
        if member == "fields":
            check_fields(found, name, entry)
        elif member == "attributes":
            for attribute in entry:
                assert is_replaced(name, attribute) or has_attribute(found, attribute), f"{name}.{attribute}"
        elif not is_replaced(name, member):
            check_arguments(getattr(found, member), f"{name}.{member}", entry)


def has_attribute(kind: type, name: str) -> bool:
    """Whether objects of a class have an attribute: of the class, or set when they are made."""
    sources = "".join(inspect.getsource(one) for one in kind.__mro__ if one.__module__.startswith("easyroutine"))
    return hasattr(kind, name) or re.search(rf"self\.{name}(: [^=\n]+)? = ", sources) is not None


def check_fields(found: type, name: str, fields: list[str]) -> None:
    wanted = [one.partition("=")[::2] for one in fields]
    if found is ModelConfig:
        sizes = HookedModel.from_pretrained(TINY / "llama").model_config
        assert all(is_replaced(name, field) or field in sizes for field, _ in wanted)
        return
    parameters = list(inspect.signature(found).parameters.values())
    assert [one.name for one in parameters[: len(wanted)]] == [field for field, _ in wanted], "the order of fields"
    for (field, default), parameter in zip(wanted, parameters, strict=False):
        check_default(f"{name}.{field}", default, parameter)


def check_arguments(found: Any, name: str, entry: dict[str, Any]) -> None:
    assert callable(found), name
    parameters = list(inspect.signature(found).parameters.values())
    # Some methods are functions of files of their own, which call the object what it is.
    if parameters and parameters[0].name in ("self", "model" if name.startswith("HookedModel.") else "self"):
        parameters = parameters[1:]
    assert name not in OTHER_RETURNS or (OTHER_RETURNS[name] or "") in PAGE
    returned = inspect.signature(found).return_annotation
    if "returns" in entry and name not in OTHER_RETURNS:
        assert same_kind(entry["returns"], str(returned)), f"{name} returns {returned}, not {entry['returns']}"
    if name in OTHER_ARGUMENTS:
        assert (OTHER_ARGUMENTS[name] or "") in PAGE
        return
    wanted = [one.partition("=")[::2] for one in entry["arguments"] if not one.startswith("*")]
    named = [one for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
    assert [one.name for one in named[: len(wanted)]] == [argument for argument, _ in wanted], name
    for (argument, default), parameter in zip(wanted, named, strict=False):
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD, f"{name}: {argument}"
        check_default(argument if name.count(".") else f"{name}.{argument}", default, parameter)
    for further in named[len(wanted) :]:
        assert further.default is not inspect.Parameter.empty, (
            f"{name} needs {further.name}, which the original has not"
        )


def check_default(name: str, default: str, parameter: inspect.Parameter) -> None:
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        # None, or made of other names: `torch.bfloat16`.
        return
    if name in OTHER_DEFAULTS or isinstance(value, (list, dict)):
        return
    assert parameter.default == value, f"{name} is {value!r} in the original, and {parameter.default!r} here"


def same_kind(theirs: str, ours: str) -> bool:
    """Whether a type of the original's is among ours: `dict` in `dict[str, Any]`."""
    theirs = theirs.rpartition(".")[2].removeprefix("torch.")
    generic = theirs.partition("[")[0]
    aliases = {
        "Tensor": "Any",
        "Iterable": "Iterator",
        "Union": "Any",
        "device": "str",
        "Dict": "dict",
        "LogitLens": "LogitLens",
    }
    wanted = aliases.get(generic, generic)
    return wanted.lower() in ours.lower() or "Any" in ours


def test_names_that_are_replaced_say_by_what(gpt2: HookedModel) -> None:
    with pytest.raises(ImportError, match="register_forward_hook"):
        from easyroutine.interpretability.hooks import save_resid_hook  # noqa: F401
    with pytest.raises(AttributeError, match=r"instead: `HookedModel\.interventions`"):
        gpt2.additional_interventions  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="instead: `HookedModel.get_lm_head"):
        gpt2.model_config.unembed_matrix  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        gpt2.nothing  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(gpt2, "create_hooks") and not hasattr(importlib.import_module("easyroutine.utils"), "nothing")


def test_every_field_of_a_models_configuration_is_an_argument() -> None:
    fields = list(inspect.signature(HookedModelConfig).parameters)
    arguments = list(inspect.signature(HookedModel.from_pretrained).parameters)
    assert [name for name in arguments if name in fields] == fields


def test_methods_name_their_arguments() -> None:
    for name, member in inspect.getmembers(HookedModel, callable):
        if not name.startswith("_") and name != "from_pretrained":
            kinds = {one.kind for one in inspect.signature(member).parameters.values()}
            assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{name} hides its arguments"
