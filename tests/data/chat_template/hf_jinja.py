"""The oracle: jinja2 configured the way Hugging Face transformers configures it for chat templates."""

import copy
import datetime
import json

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

NOW = datetime.datetime(2025, 1, 1, 5, 6, 7)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


class Generation(Extension):
    """{% generation %} … {% endgeneration %}: renders its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_render"), [], [], body, lineno=line)

    def _render(self, caller):
        return caller()


class GuardedNamespace(Namespace):
    """Refuses names that begin with an underscore."""

    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        names = dict(*args, **kwargs)
        for name in names:
            GuardedNamespace.check(name)
        Namespace.__init__(self, names)

    def __setitem__(self, name, value):
        GuardedNamespace.check(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    env.filters["tojson"] = to_json
    env.globals.update(
        raise_exception=raise_exception,
        strftime_now=lambda fmt: NOW.strftime(fmt),
        dict=lambda *args, **kwargs: dict(*args, **kwargs),
        namespace=GuardedNamespace,
    )
    return env


ENV = environment()


def render(source, messages=(), tools=None, documents=None, add_generation_prompt=False, extra=None):
    """The text, or the exception that rendering ended with."""
    # A copy, because jinja2's indent filter can append to a list that it is given.
    messages, tools, documents, extra = copy.deepcopy((messages, tools, documents, extra))
    variables = dict(TOKENS)
    variables.update(extra or {})
    variables.update(
        messages=list(messages),
        tools=tools,
        documents=documents,
        add_generation_prompt=add_generation_prompt,
    )
    try:
        return ENV.from_string(source).render(**variables)
    except Exception as error:  # every error is an expectation
        return error


def expectation(result):
    if isinstance(result, Exception):
        if type(result) is jinja2.exceptions.TemplateError:  # raise_exception
            return {"error": "raised", "message": result.message}
        return {"error": type(result).__name__}
    return {"expected": result}
