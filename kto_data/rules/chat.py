"""KTO3xx: roles, order and content of the messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from kto_data.fields import ROLES
from kto_data.finding import Severity
from kto_data.row import Row
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.control_tokens import AMBIGUOUS, find_control_tokens
from kto_data.rules.words import counted, kind, nearest

ROLE_ALIASES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "developer": "system",
}
"""What other formats call the four roles."""

_INVISIBLE = "\u00ad\u180e\u200b\u200c\u200d\u2060\ufeff"  # soft hyphen, zero-width spaces and joiners, BOM
_BLANK = _INVISIBLE + "".join(chr(code) for code in range(0x3001) if chr(code).isspace())

MAY_FOLLOW: dict[str, tuple[str, ...]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
"""Which roles may come after which; after "", which may begin."""


def is_blank(text: str) -> bool:
    """Whether the text shows nothing: only whitespace and invisible characters."""
    return not text.strip(_BLANK)


def are_in_order(roles: Sequence[str]) -> bool:
    """Whether the roles of a record take turns as they should and end with the assistant."""
    if len(roles) < 2 or roles[-1] != "assistant":
        return False
    return all(role in MAY_FOLLOW.get(before, ()) for before, role in pairwise(("", *roles)))


@rule("KTO301", "last-turn-not-assistant", Severity.ERROR, Stage.ROW)
def last_turn_not_assistant(row: Row) -> Iterator[Defect]:
    """The last message must be the assistant's.

    It is the completion, the answer that the label judges. Without it there is nothing to score.

    Bad:  user, assistant, user
    Good: user, assistant
    """
    messages = row.messages
    if messages and messages[-1].role in ROLES and messages[-1].role != "assistant":
        last = messages[-1]
        yield Defect(
            f"the last message is by '{last.role}', must be by 'assistant'",
            f"/messages/{last.index}/role",
            data=(("role", str(last.role)),),
        )


@rule("KTO302", "invalid-role", Severity.ERROR, Stage.ROW, fix=Fix.SAFE)
def invalid_role(row: Row) -> Iterator[Defect]:
    """A role must be `system`, `user`, `assistant` or `tool`.

    A template meets an unknown role with an exception, or with nothing at all: the message is gone. Well-known aliases
    (`human`, `gpt`) can be renamed safely; a typo needs a person.

    Bad:  `{"role": "human", "content": "Hi"}`
    Good: `{"role": "user", "content": "Hi"}`
    """
    for error in row.schema_errors:
        parts = error.pointer.split("/")
        if len(parts) != 4 or parts[1] != "messages" or parts[3] != "role" or error.type == "missing":
            continue
        yield _unknown_role(error.value, error.pointer)


@rule("KTO303", "system-not-first", Severity.ERROR, Stage.ROW)
def system_not_first(row: Row) -> Iterator[Defect]:
    """A system message may only come first.

    Many templates raise on a later one, others drop it or print it where the model was never trained to see it.

    Bad:  user, system, assistant
    Good: system, user, assistant
    """
    for message in row.messages:
        if message.role == "system" and message.index > 0:
            yield Defect(
                f"message {message.index + 1} is a system message, not the first", f"/messages/{message.index}"
            )


@rule("KTO304", "non-alternating-turns", Severity.WARNING, Stage.ROW)
def non_alternating_turns(row: Row) -> Iterator[Defect]:
    """User and assistant should take turns, the user first; tool messages follow an assistant's.

    Many chat templates raise an exception on any other order.

    Bad:  user, user, assistant
    Good: user, assistant, tool, assistant
    """
    before: str | None = "system"  # a missing system message changes nothing
    for message in row.messages:
        role = message.role
        if role == "system":
            continue
        if role not in ROLES:
            before = None  # another rule's matter; nothing can be said of what follows it
            continue
        if before is not None and role not in MAY_FOLLOW[before]:
            data = (("role", role), ("before", before))
            yield Defect(_order_message(role, before), f"/messages/{message.index}/role", data=data)
        before = role


@rule("KTO305", "image-placeholder-mismatch", Severity.ERROR, Stage.ROW, fix=Fix.UNSAFE)
def image_placeholder_mismatch(row: Row) -> Iterator[Defect]:
    """Placeholders and images must agree in number.

    The processor puts the patches of one image in the place of each placeholder: one too many, or one too few, and
    training stops, or every later image stands in the wrong place.

    Bad:  `{"role": "user", "content": "Compare <image> and <image>."}` with `"images": ["a.png"]`
    Good: `{"role": "user", "content": "Compare <image> and <image>."}` with `"images": ["a.png", "b.png"]`
    """
    if row.num_images is None or any(message.text is None for message in row.messages):
        return
    placeholders = sum(message.num_images for message in row.messages)
    if placeholders != row.num_images:
        yield Defect(
            f"{counted(placeholders, 'image placeholder')}, but {counted(row.num_images, 'image')}",
            "/messages",
            data=(("placeholders", placeholders), ("images", row.num_images)),
        )


@rule("KTO306", "empty-completion", Severity.ERROR, Stage.ROW, fix=Fix.REJECT)
def empty_completion(row: Row) -> Iterator[Defect]:
    """The completion must have text; whitespace and invisible characters are none.

    Nothing can be learnt from an empty answer, and some trainers take it for the sign of the other label.

    Bad:  `{"role": "assistant", "content": " "}`
    Good: `{"role": "assistant", "content": "I do not know."}`
    """
    if row.messages and row.messages[-1].role == "assistant":
        last = row.messages[-1]
        if last.text is not None and not last.num_images and is_blank(last.text):
            yield Defect("the completion is empty", f"/messages/{last.index}/content")


@rule("KTO307", "empty-prompt", Severity.WARNING, Stage.ROW, default=False)
def empty_prompt(row: Row) -> Iterator[Defect]:
    """The prompt should hold text or an image.

    An answer to nothing teaches what the model says unasked. That may be meant: the rule runs when it is selected.

    Bad:  `{"role": "user", "content": ""}` before the completion
    Good: `{"role": "user", "content": "Tell me something."}`
    """
    prompt = [message for message in row.messages[:-1] if message.role != "system"]
    if row.messages and all(m.text is not None and not m.num_images and is_blank(m.text) for m in prompt):
        yield Defect("the prompt is empty", "/messages")


@rule("KTO308", "image-in-completion", Severity.ERROR, Stage.ROW)
def image_in_completion(row: Row) -> Iterator[Defect]:
    """The completion must hold no image.

    The model answers in text; an image placeholder in the answer would be trained as something to say.

    Bad:  `{"role": "assistant", "content": "Here: <image>"}`
    Good: `{"role": "assistant", "content": "Two apples."}`
    """
    if row.messages and row.messages[-1].role == "assistant" and row.messages[-1].num_images:
        last = row.messages[-1]
        yield Defect(f"the completion holds {counted(last.num_images, 'image')}", f"/messages/{last.index}/content")


@rule("KTO309", "special-token-in-content", Severity.ERROR, Stage.ROW, fix=Fix.UNSAFE)
def special_token_in_content(row: Row) -> Iterator[Defect]:
    """Text must hold no control token of a chat template.

    A tokenizer turns `<|im_end|>` in a text into the token that ends the message: the conversation is split there. An
    `<|image_pad|>` asks for an image that is not there, and training stops. Tokens that only a few families have, such
    as `<|user|>`, are a warning. With `--model`, and in `ktodata preprocess`, the model's own are errors.

    Bad:  `"content": "Stop at <|im_end|>, please."`
    Good: `"content": "Stop at the end mark, please."`
    """
    for message in row.messages:
        if message.text:
            for token in find_control_tokens(message.text):
                severity = Severity.WARNING if token in AMBIGUOUS else None
                yield Defect(
                    f"the text holds the control token {token}",
                    f"/messages/{message.index}/content",
                    severity=severity,
                    quotes=()
                    if token.isascii()
                    else (token,),  # of those in ASCII, each is listed; others hold anything
                    data=(("token", token),),
                )


def _unknown_role(role: object, pointer: str) -> Defect:
    roles = ", ".join(ROLES)
    if not isinstance(role, str):
        return Defect(f"the role is {kind(role)}, must be one of {roles}", pointer)
    close = ROLE_ALIASES.get(role.lower()) or nearest(role, ROLES)
    shown = role if len(role) <= 30 else role[:29] + "…"
    return Defect(
        f"unknown role '{shown}': " + (f"did you mean '{close}'?" if close else f"must be one of {roles}"),
        pointer,
        quotes=(shown,),
        data=(("role", shown), *((("suggestion", close),) if close else ())),
    )


def _order_message(role: str, before: str) -> str:
    if before == "system":
        return f"the conversation begins with '{role}', not with 'user'"
    return f"'{role}' follows '{before}'"
