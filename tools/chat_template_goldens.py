"""Renders tests/chat_templates by jinja2 and writes the texts that metala must give.

    pip install jinja2==3.1.6 && python3 tools/chat_template_goldens.py

Writes tests/chat_templates/constructs.json (chat_template_constructs.py's small templates) and, for
each tests/chat_templates/NAME.jinja, NAME.json: what it makes of every conversation in
conversations.json, with and without a generation prompt. The environment is the one that chat
templates are published for: sandboxed and immutable, trim_blocks, lstrip_blocks, break and
continue, a tojson that leaves characters as they are.
"""

import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes

from chat_template_constructs import CONSTRUCTS, VARIABLES

FOLDER = pathlib.Path(__file__).parent.parent / "tests" / "chat_templates"
NOW = datetime.datetime(2024, 7, 26, 12, 0, 0)  # the tests' clock


class Generation(jinja2.ext.Extension):
    """{% generation %}: marks what the model wrote; its text is unchanged."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def write(name, content):
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (FOLDER / name).write_text(text + "\n", encoding="utf-8")


def rendered(template, **variables):
    """The text, or the message that the template raised, or that it does not fit the messages."""
    try:
        return {"text": template.render(**variables)}
    except (jinja2.exceptions.UndefinedError, TypeError):
        return {"fails": True}
    except jinja2.exceptions.TemplateError as error:
        return {"refused": str(error)}


def main():
    env = environment()
    cases = []
    for source in CONSTRUCTS:
        cases.append({"template": source, "text": env.from_string(source).render(**VARIABLES)})
    write("constructs.json", {"variables": VARIABLES, "cases": cases})

    conversations = json.loads((FOLDER / "conversations.json").read_text(encoding="utf-8"))
    for path in sorted(FOLDER.glob("*.jinja")):
        template = env.from_string(path.read_text(encoding="utf-8"))
        cases = []
        for conversation in conversations:
            for prompt in (False, True):
                result = rendered(template, messages=conversation["messages"],
                                  tools=conversation.get("tools"),
                                  documents=conversation.get("documents"),
                                  add_generation_prompt=prompt, bos_token="<s>",
                                  eos_token="</s>", **conversation.get("extras", {}))
                cases.append({"conversation": conversation["name"],
                              "add_generation_prompt": prompt, **result})
        write(path.stem + ".json", cases)


if __name__ == "__main__":
    main()
