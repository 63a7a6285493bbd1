"""Writes the seeds of chat_template_fuzz out of the cases that chat_template_replay_test replays.

    python3 tests/fuzz/make_chat_template_corpus.py
"""

import json
import pathlib

HERE = pathlib.Path(__file__).parent
CASES = HERE.parent / "data" / "chat_template"
SEEDS = HERE / "corpus" / "chat_template_fuzz"

# The cases speak of `d`; the target has only messages.
RENAMED = {
    "d.name": "messages[0].content",
    "d.text": "messages[0].content",
    "d.uni": "messages[0].role",
    "d.list": "messages[0] | list",
    "d.nested": "messages[1]",
    "{{ d ": "{{ messages[0] ",
}


def sources(name):
    for case in json.loads((CASES / name).read_text(encoding="utf-8")):
        if "expected" in case:
            source = case["source"]
            for old, new in RENAMED.items():
                source = source.replace(old, new)
            yield source


def main():
    SEEDS.mkdir(parents=True, exist_ok=True)
    for name, per_seed in (("statements.json", 6), ("expressions.json", 12)):
        cases = list(sources(name))
        for i in range(0, len(cases), per_seed):
            seed = SEEDS / f"{name.split('.')[0]}{i // per_seed:02d}.jinja"
            seed.write_text("\n".join(cases[i : i + per_seed]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
