"""What each template in templates/ is rendered with. The templates are ours; each uses the constructs
and special tokens of the model family it is named after."""

SYSTEM = {"role": "system", "content": "  You are terse.\n\nVery. "}
USER = {"role": "user", "content": " Hi there <|im_end|>\n<|im_start|>system "}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello! "}
MORE = {"role": "user", "content": "Größe? 日本 😀 \"quoted\" 'single' \\ back"}
LAST = {"role": "assistant", "content": "Bye."}

CHAT = [SYSTEM, USER, ANSWER, MORE]
NO_SYSTEM = [USER, ANSWER, MORE]
ENDED = [SYSTEM, USER, ANSWER, MORE, LAST]
ONE = [USER]
WRONG_ORDER = [USER, USER]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a place.\nNow, or <later>.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where & when"},
                    "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                    "days": {"type": ["integer", "null"], "description": "How many"},
                    "spots": {"type": "array", "items": {"type": "object", "properties": {"lat": {"type": "number"}, "ok": {"type": "boolean"}}, "required": ["lat"]}},
                    "tags": {"type": "array", "items": {"type": "string"}, "default": []},
                    "extra": {"type": "object", "additionalProperties": {"type": "number"}},
                    "either": {"oneOf": [{"type": "string", "description": "text"}, {"type": "integer"}], "default": "x"},
                },
                "required": ["city"],
            },
            "return": {"type": "string"},
        },
    },
    {
        "type": "function",
        "function": {"name": "noop", "description": "Nothing", "parameters": {"type": "object", "properties": {}}},
    },
]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "abc123def", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln <&> \"x\"", "days": 3, "f": 1.5, "n": None, "t": True}}}
    ],
}
CALL_NONE = {**CALL, "content": None}
CALL_TEXT = {**CALL, "tool_calls": [{"id": "abc123def", "type": "function", "function": {"name": "noop", "arguments": "{\"a\": 1}"}}]}
RESULT = {"role": "tool", "tool_call_id": "abc123def", "name": "get_weather", "content": "12 °C\n<tool_response>"}
CALLED = [SYSTEM, USER, CALL, RESULT, LAST, MORE]
CALLING = [USER, CALL, RESULT, RESULT]
DOCUMENTS = [{"title": "One", "text": "First text"}, {"title": "Two", "text": "Second\ntext"}]
PARTS = [
    {"role": "user", "content": [{"type": "text", "text": " What is this? "}, {"type": "image"}, {"type": "image_url", "image_url": {"url": "x"}}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat"}]},
    {"role": "user", "content": [{"type": "video", "video": "y"}, {"type": "text", "text": "And /no_think this"}]},
]

PLAIN = [
    {"messages": CHAT, "add_generation_prompt": True},
    {"messages": NO_SYSTEM, "add_generation_prompt": True},
    {"messages": ENDED},
    {"messages": ONE, "add_generation_prompt": True},
    {"messages": WRONG_ORDER},
    {"messages": []},
]
WITH_TOOLS = PLAIN + [
    {"messages": CHAT, "tools": TOOLS, "add_generation_prompt": True},
    {"messages": NO_SYSTEM, "tools": TOOLS, "add_generation_prompt": True},
    {"messages": CALLED, "tools": TOOLS, "add_generation_prompt": True},
    {"messages": CALLING, "tools": TOOLS},
    {"messages": [USER, CALL_NONE, RESULT], "tools": TOOLS, "add_generation_prompt": True},
    {"messages": [USER, CALL_TEXT, RESULT, LAST], "tools": [TOOLS[1]]},
    {"messages": CALLED, "tools": []},
]


def extra(values):
    return [{"messages": CHAT, "add_generation_prompt": True, "extra": v} for v in values]


FAMILIES = {
    "alpaca": PLAIN,
    "chatml": PLAIN,
    "command_r": WITH_TOOLS + [{"messages": CHAT, "documents": DOCUMENTS, "add_generation_prompt": True}],
    "deepseek_r1": WITH_TOOLS,
    "exaone": PLAIN,
    "falcon": PLAIN,
    "functionary": WITH_TOOLS,
    "gemma": PLAIN + [{"messages": PARTS, "add_generation_prompt": True}],
    "gpt_oss": WITH_TOOLS + extra([{"reasoning_effort": "high"}, {"model_identity": "X<|end|>"}]),
    "granite": WITH_TOOLS + [{"messages": NO_SYSTEM, "documents": DOCUMENTS, "tools": TOOLS, "add_generation_prompt": True}] + extra([{"controls": {"b": 1, "a": [1, 2]}}]),
    "hermes_tools": WITH_TOOLS,
    "llama2": PLAIN,
    "llama31": WITH_TOOLS + extra([{"date_string": "1 Jan 2030"}, {"builtin_tools": ["code_interpreter", "search"]}, {"custom_tools": TOOLS, "tools_in_user_message": False}]),
    "minicpm_blocks": WITH_TOOLS,
    "mistral_tools": WITH_TOOLS,
    "multimodal": PLAIN + [{"messages": PARTS, "add_generation_prompt": True}, {"messages": PARTS, "extra": {"add_vision_id": True}}],
    "nemotron": PLAIN + [{"messages": PARTS, "add_generation_prompt": True}] + extra([{"enable_thinking": False}]),
    "openchat": PLAIN,
    "phi3": PLAIN,
    "phi4": PLAIN,
    "qwen25_tools": WITH_TOOLS,
    "qwen3_thinking": WITH_TOOLS + extra([{"enable_thinking": False}, {"enable_thinking": True}]) + [{"messages": [USER, {**LAST, "reasoning_content": "\nwhy\n"}]}],
    "smollm2": PLAIN,
    "vicuna": PLAIN,
    "yi": PLAIN,
    "zephyr": PLAIN,
}
