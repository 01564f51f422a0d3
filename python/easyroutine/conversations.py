"""Renders conversations with a model's chat template."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from easyroutine.errors import InputError
from easyroutine.logger import logger

if TYPE_CHECKING:
    from easyroutine._core import Tokenizer as Engine
    from easyroutine.tokenizer import Tokenizer

__all__ = ["ChatArguments", "Chats", "is_conversation", "rendered", "takes_chats", "warn_of_unread"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class ChatArguments(TypedDict, total=False):
    """How conversations among the inputs become text. The names are those of :meth:`Tokenizer.apply_chat_template`."""

    #: JSON schemas of the tools that the model may call.
    tools: Sequence[Mapping[str, Any]] | None
    #: Documents to answer from.
    documents: Sequence[Mapping[str, Any]] | None
    #: One of the model's templates by name, or a template.
    chat_template: str | None
    #: Whether the text ends with the start of an answer. By default it does, unless ``continue_final_message`` is given
    #: or the assistant spoke last; its message is then continued, as in transformers' pipelines.
    add_generation_prompt: bool | None
    #: Whether the text ends within the last message.
    continue_final_message: bool | None
    #: Further variables of the template: ``{"enable_thinking": False}``.
    chat_variables: Mapping[str, Any] | None
    #: The time given to a template that asks for it: ``"2024-07-26"``, ``"2024-07-26T15:30:00"``, or a date; by default
    #: the present.
    strftime_now: str | date | None


def takes_chats(function: _Function) -> _Function:
    """Lists the arguments of :class:`ChatArguments` in the signature of a function that takes them as keywords."""
    signature = inspect.signature(function)
    parameters = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    for name, kind in ChatArguments.__annotations__.items():
        annotation = getattr(kind, "__forward_arg__", kind)
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return function


def is_conversation(value: Any) -> bool:
    """Whether this is a list of messages."""
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(one, Mapping) for one in value)
        and any("role" in one or "content" in one for one in value)
    )


class Chats:
    """The conversations of one call, which all get the same time."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        known = ChatArguments.__annotations__
        unknown = next((name for name in given if name not in known), None)
        if unknown is not None:
            near = get_close_matches(unknown, known, 1)
            raise TypeError(
                f"unexpected keyword argument {unknown!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        self._given = {name: value for name, value in given.items() if value is not None}
        variables = self._given.get("chat_variables", {})
        if not isinstance(variables, Mapping):
            raise InputError(f"chat_variables is {variables!r:.80}", 'for example {"enable_thinking": False}')
        own = next((name for name in variables if name in known), None)
        if own is not None:
            raise InputError(f"chat_variables has {own!r}, which is an argument of its own", f"{own}=…")
        self._count = 0
        self._unread: set[str] | None = None
        #: The time given to a template that asked for it.
        self.now: str | None = None

    def text(self, conversation: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> str:
        """A conversation as text that already holds the special tokens."""
        self._count += 1
        given = {name: value for name, value in self._given.items() if name != "chat_variables"}
        if "add_generation_prompt" not in given and "continue_final_message" not in given:
            last = conversation[-1].get("role") == "assistant"
            given.update(add_generation_prompt=not last, continue_final_message=last)
        if self.now is not None:
            given["strftime_now"] = self.now
        text, now, unread = rendered(tokenizer._engine, conversation, self._given.get("chat_variables", {}), **given)
        self.now = now if now is not None else self.now
        self._unread = unread if self._unread is None else self._unread & unread
        return text

    def finish(self) -> None:
        """Rejects arguments that no conversation used, warns of variables that no template read, and logs the time that
        templates were given."""
        if self._given and not self._count:
            name = next(iter(self._given))
            raise InputError(
                f"{name} is for conversations, and the inputs hold none",
                'a conversation is a list of messages: [{"role": "user", "content": "..."}]',
            )
        warn_of_unread(self._unread)
        if self.now is not None and "strftime_now" not in self._given:
            logger.info("the chat template was told the time; strftime_now=%r tells it again", self.now)

    def record(self) -> dict[str, Any] | None:
        """What a run's record says about its conversations, besides their messages; None without conversations."""
        if not self._count:
            return None
        given = dict(self._given)
        record: dict[str, Any] = {}
        for name, kept in _RECORDED.items():
            if name in given:
                record[kept] = given[name]
        if self.now is not None:
            record["now"] = self.now
        return dict(json.loads(json.dumps(record)))


#: Arguments kept in a run's record, under the names that the command line gives them there.
_RECORDED = {
    "chat_variables": "variables",
    "tools": "tools",
    "documents": "documents",
    "chat_template": "template",
    "add_generation_prompt": "add_generation_prompt",
    "continue_final_message": "continue_final_message",
}


def rendered(
    engine: Engine,
    conversation: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    chat_template: str | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    strftime_now: str | date | None = None,
) -> tuple[str, str | None, set[str]]:
    """A conversation as text, the time if its template asked for it, and the variables that the template did not read."""
    for number, message in enumerate(conversation):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            lacks = " and has no `role`" if isinstance(message, Mapping) and "role" not in message else ""
            raise InputError(
                f"message {number} is {message!r:.80}{lacks}", 'a message is {"role": "user", "content": "..."}'
            )
    for name, truth in (
        ("add_generation_prompt", add_generation_prompt),
        ("continue_final_message", continue_final_message),
    ):
        if not isinstance(truth, bool):
            raise InputError(f"{name} is {truth!r:.80}; it must be True or False")
    if add_generation_prompt and continue_final_message:
        raise InputError("add_generation_prompt and continue_final_message exclude one another")
    if chat_template is not None and not isinstance(chat_template, str):
        raise InputError(f"chat_template is {type(chat_template).__name__}; it must be a template, or the name of one")
    given = dict(variables)
    for name, listed in (("tools", tools), ("documents", documents)):
        if listed is not None:
            given[name] = _objects(name, listed)
    answer = "awaited" if add_generation_prompt else "continued" if continue_final_message else "none"
    try:
        messages, written = json.dumps([dict(one) for one in conversation]), json.dumps(given)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"what is given to a chat template is JSON: {error}") from None
    text, now, repeats_bos, unread = engine.chat(messages, written, answer, chat_template, _time(strftime_now))
    if repeats_bos:
        bos = engine.roles.get("bos_token")
        warnings.warn(f"a message holds {bos!r}, which the chat template writes too", stacklevel=3)
    return text, now, set(unread)


def warn_of_unread(names: set[str] | None) -> None:
    """Warns of a template's variables that changed nothing."""
    if names:
        listed = ", ".join(f"`{name}`" for name in sorted(names))
        warnings.warn(f"the chat template does not read {listed}: setting that changes nothing", stacklevel=4)


def _objects(name: str, listed: Any) -> list[dict[str, Any]]:
    """Tools or documents: JSON objects."""
    if isinstance(listed, (str, bytes, Mapping)) or not hasattr(listed, "__iter__"):
        raise InputError(f"{name} is {listed!r:.80}; it must be a list of dictionaries")
    found = list(listed)
    for one in found:
        if callable(one):
            raise InputError(
                f"{name} has the function {getattr(one, '__name__', one)!r}",
                "transformers.utils.get_json_schema(function) gives the schema of a function that is documented",
            )
        if not isinstance(one, Mapping):
            raise InputError(f"{name} has {one!r:.80}", f"{name} are dictionaries: a tool is given by its JSON schema")
    return [dict(one) for one in found]


def _time(given: Any) -> str | None:
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, date):
        return given.isoformat()
    raise InputError(f"strftime_now is {given!r:.80}", 'for example "2024-07-26" or "2024-07-26T15:30:00"')
