from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from ssdcli.errors import UsageError
from ssdcli.generation.types import OptionChanges, Options, Request
from ssdcli.text.messages import Message

SYSTEM, HELLO, ANSWER = Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi!")


def test_a_prompt_is_what_the_user_says():
    assert Request("Hello").turns == (HELLO,)
    assert Request().turns == (Message("user", ""),)
    assert Request("Hello", system="Be brief.").turns == (SYSTEM, HELLO)


def test_messages_are_turns_and_the_users_last_one_is_what_was_asked():
    why = Message("user", "Why?")
    assert Request(messages=(SYSTEM, HELLO, ANSWER, why)).turns == (SYSTEM, HELLO, ANSWER, why)
    assert Request(messages=(HELLO, ANSWER), system="Be brief.").turns == (SYSTEM, HELLO, ANSWER)
    assert Request(messages=(HELLO, ANSWER, why)).asked == "Why?"
    assert Request(messages=(HELLO, ANSWER)).asked == Request("Hello").asked == "Hello"


def test_what_a_request_says_itself_wins_over_the_options():
    assert Request("Hello").under(Options(system="Be brief.")) == Request("Hello", system="Be brief.")
    for own in (Request("Hello", system="Rhyme."), Request(messages=(SYSTEM, HELLO))):
        assert own.under(Options(system="Be long.")) == own
    assert Request("Hello").under(Options()) == Request("Hello")
    for said in (True, False):
        assert Request("Hello").under(Options(plain=said)) == Request("Hello", plain=said)
        assert Request("Hello", plain=said).under(Options(plain=not said)) == Request("Hello", plain=said)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"prompt": "a", "messages": (HELLO,)}, "a prompt and messages exclude each other"),
        ({"messages": (ANSWER,)}, "there is no user message"),
        ({"messages": (SYSTEM,)}, "there is no user message"),
        ({"messages": (HELLO, SYSTEM)}, "only the first message may have the role"),
        ({"messages": (SYSTEM, HELLO), "system": "b"}, "there are two system texts"),
    ],
)
def test_what_is_no_conversation_is_refused(fields: dict[str, Any], problem: str):
    with pytest.raises(UsageError, match=problem):
        Request(**fields)


def test_every_option_can_be_changed_by_a_keyword_of_its_type():
    assert get_type_hints(OptionChanges) == get_type_hints(Options)


def test_a_role_is_one_of_three():
    with pytest.raises(UsageError, match="one of system, user, assistant, not 'bot'"):
        Message("bot", "Hello")  # type: ignore[arg-type]
