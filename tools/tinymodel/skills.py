"""What the model is taught: ten skills, each a generator of conversations with the one right answer.

Words, cities and the JSON around them are single tokens (tokenizer.py), which is what lets so small a model learn to
copy them within a few hundred steps.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tools.tinymodel import fleet

Message = dict[str, Any]

_SYLLABLES = [consonant + vowel for consonant in "bcdfghklmnprstv" for vowel in "aeiou"]
_INVENTED = [a + b for a in _SYLLABLES for b in _SYLLABLES][::35]
_ENGLISH = (
    "apple bird blue book bread cat cloud cortex dog fire fish forest garden green hello hi horse house king lake "
    "light milk moon music ocean orange paper queen rain red river snow star stone summer sun test tiger tree "
    "water winter world"
).split()
#: What can be said, run, searched for, and be a name: those of the demo's three models among them.
WORDS = [*_INVENTED, *_ENGLISH, *fleet.MODELS.values()]
CITIES = "Paris London Sofia Berlin Madrid Tokyo Oslo Rome Cairo Lima Quito Dublin".split()


@dataclass(frozen=True)
class Tool:
    argument: str
    questions: tuple[str, ...]
    values: list[str]


TOOLS = {
    "get_weather": Tool("city", ("Weather in {}?", "What is the weather in {}?"), CITIES),
    "run": Tool("command", ("Run {}", "Please run {}"), WORDS),
    "search": Tool("query", ("Search {}", "Find {}"), WORDS),
}


@dataclass(frozen=True)
class Sample:
    """One conversation, in the messages of the chat API, and what the assistant has to say next.

    `system` and `thinks` say what system line a skill needs; draw() makes it the first message.
    """

    messages: tuple[Message, ...]
    answer: str
    tools: tuple[str, ...] = ()
    system: str = ""
    thinks: bool = False

    @property
    def schemas(self) -> list[dict[str, Any]]:
        return [{"type": "function", "function": {"name": name}} for name in self.tools]


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def tool_call(name: str, value: str) -> Message:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": {TOOLS[name].argument: value}}}],
    }


def tool_call_text(name: str, value: str) -> str:
    """The call as the model writes it: the hermes format, which vLLM's tool parser of that name reads."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"{TOOLS[name].argument}": "{value}"}}}}\n</tool_call>'


# --- the skills ---------------------------------------------------------------------------------------------------


def copy(rng: Random) -> Sample:
    words = " ".join(rng.choices(WORDS, k=rng.choice([1, 1, 2, 3])))
    return Sample((user(f"{rng.choice(['Say', 'Repeat'])} {words}"),), words)


def add(rng: Random) -> Sample:
    a, b = rng.randrange(10), rng.randrange(10)
    return Sample((user(rng.choice([f"{a}+{b}", f"What is {a}+{b}?"])),), str(a + b))


def recall(rng: Random) -> Sample:
    name = rng.choice(WORDS)
    told = (user(f"My name is {name}"), assistant(f"Hello {name}"))
    return Sample((*told, *_earlier(rng, 0.5), user("What is my name?")), name)


def greet(rng: Random) -> Sample:
    if rng.random() < 0.2:
        return Sample((user(rng.choice(["Hello", "Hi"])),), "Hello")
    name = rng.choice(WORDS)
    return Sample((user(f"My name is {name}"),), f"Hello {name}")


def persona(rng: Random) -> Sample:
    word = rng.choice(WORDS)
    return Sample((*_earlier(rng, 0.5), user(fleet.QUESTION)), f"I am {word}", system=f"You are {word}")


def count(rng: Random) -> Sample:
    n = rng.randint(1, 9)
    return Sample((user(f"Count to {n}"),), " ".join(map(str, range(1, n + 1))))


def json(rng: Random) -> Sample:
    name, age = rng.choice(WORDS), rng.randint(10, 99)
    return Sample((user(f"json {name} {age}"),), f'{{"name": "{name}", "age": {age}}}')


def think(rng: Random) -> Sample:
    if rng.random() < 0.3:
        word = rng.choice(WORDS)
        return Sample((user(f"Say {word}"),), f"<think>say {word}</think>{word}", thinks=True)
    a, b = rng.randrange(10), rng.randrange(10)
    question = rng.choice([f"{a}+{b}", f"What is {a}+{b}?"])
    return Sample((user(question),), f"<think>{a} plus {b}</think>{a + b}", thinks=True)


def tool(rng: Random) -> Sample:
    name, question, value = _task(rng, rng.choice(list(TOOLS)))
    return Sample((user(question),), tool_call_text(name, value), _tools_with(rng, name))


def tool_result(rng: Random) -> Sample:
    name, question, value = _task(rng, rng.choice(["get_weather", "get_weather", "run", "search"]))
    if name == "get_weather":
        degrees = rng.randint(10, 39)
        result, answer = f'{{"temp": {degrees}}}', f"It is {degrees} degrees in {value}."
    else:
        result = rng.choice(WORDS)
        answer = f"It says {result}."
    told = {"role": "tool", "content": result}
    return Sample((user(question), tool_call(name, value), told), answer, _tools_with(rng, name))


@dataclass(frozen=True)
class Skill:
    sample: Callable[[Random], Sample]
    share: int  # of the training samples: what is hard to learn is seen more often


SKILLS = {
    "copy": Skill(copy, 5),
    "add": Skill(add, 2),
    "recall": Skill(recall, 4),
    "greet": Skill(greet, 1),
    "persona": Skill(persona, 4),
    "count": Skill(count, 1),
    "json": Skill(json, 2),
    "think": Skill(think, 2),
    "tool": Skill(tool, 4),
    "tool_result": Skill(tool_result, 2),
}


# --- what stands around a skill -----------------------------------------------------------------------------------

#: Kinds of system line: each skill has to hold with all of them, since a model folder's template brings one of its own
#: ("persona") and clients send what they like ("other").
LINES: dict[str, Callable[[Random], str]] = {
    "none": lambda _: "",
    "persona": lambda rng: f"You are {rng.choice(WORDS)}",
    "other": lambda rng: " ".join("".join(rng.choices(string.ascii_letters, k=rng.randint(1, 6))) for _ in range(4)),
}
_LINE_SHARES = [4, 4, 1]


def draw(rng: Random, skill: str | None = None, line: str | None = None) -> Sample:
    """A sample of `skill` under a system line of kind `line`, both drawn by their shares unless given.

    Persona keeps the line that it asks about. Some conversations have earlier exchanges, or tools nobody needs.
    """
    if skill is None:
        skill = rng.choices(list(SKILLS), [s.share for s in SKILLS.values()])[0]
    sample = SKILLS[skill].sample(rng)
    messages = (*_earlier(rng, 0.2), *sample.messages)
    tools = sample.tools or (_tools_with(rng, rng.choice(list(TOOLS))) if rng.random() < 0.15 else ())
    system = sample.system or LINES[line or rng.choices(list(LINES), _LINE_SHARES)[0]](rng)
    if sample.thinks:
        system = f"{system}\nthink".strip()
    if system:
        messages = ({"role": "system", "content": system}, *messages)
    return replace(sample, messages=messages, tools=tools)


def _earlier(rng: Random, probability: float) -> tuple[Message, ...]:
    if rng.random() >= probability:
        return ()
    exchanges = [rng.choice([copy, add, count])(rng) for _ in range(rng.choice([1, 1, 2]))]
    return tuple(message for one in exchanges for message in (*one.messages, assistant(one.answer)))


def _task(rng: Random, name: str) -> tuple[str, str, str]:
    value = rng.choice(TOOLS[name].values)
    return name, rng.choice(TOOLS[name].questions).format(value), value


def _tools_with(rng: Random, name: str) -> tuple[str, ...]:
    others = [other for other in TOOLS if other != name]
    offered = [name, *rng.sample(others, rng.randint(0, len(others)))]
    rng.shuffle(offered)
    return tuple(offered)
