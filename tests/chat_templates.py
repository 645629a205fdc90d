"""Nineteen families of chat templates, each written small in our own words, and tokenizers of their kinds.

``{% generation %}`` encloses what a model of the family generates; without these marks a template is as it ships.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Bpe

from made_texts import han, sentence


class Family(NamedTuple):
    """``kind`` of tokenizer, special tokens, and such that are only added; ``strips``: they take white space away."""

    template: str
    kind: str
    bos: str | None
    eos: str
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    strips: bool = False
    system: bool = True
    tools: bool = False
    ended: bool = True
    """Whether an answer within a conversation has a token of its own at its end."""


def clean(template: str) -> str:
    """Templates are written on several lines here, and on one there."""
    return re.sub(r"\n\s*", "", template)


def without_marks(template: str) -> str:
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")


IM = ("<|im_start|>", "<|im_end|>")
_ASK = "{% if add_generation_prompt %}{{ 'ASK' }}{% endif %}"


def _ask(words: str) -> str:
    return _ASK.replace("ASK", words)


CHATML = r"""{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}
{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}""" + _ask(r"<|im_start|>assistant\n")
LLAMA2 = r"""{% if messages[0].role == 'system' %}
{% set first = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}
{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('take turns') }}{% endif %}
{% if m.role == 'user' %}
{{ bos_token + '[INST] ' + ((first if loop.first else '') + m.content).strip() + ' [/INST]' }}
{% else %}{% generation %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"""
LLAMA3 = r"""{% for m in messages %}{{ bos_token if loop.first else '' }}
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}
{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}""" + _ask(
    r"<|start_header_id|>assistant<|end_header_id|>\n\n"
)
LLAMA31 = r"""{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}
{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{{ '<|start_header_id|>system<|end_header_id|>\n\nKnowledge: 2023\n\n' + system + '<|eot_id|>' }}
{% if tools %}{{ '<|start_header_id|>user<|end_header_id|>\n\nUse these functions.\n\n' }}
{% for t in tools %}{{ t | tojson(indent=4) + '\n\n' }}{% endfor %}{{ rest[0].content | trim + '<|eot_id|>' }}
{% set rest = rest[1:] %}{% endif %}{% for m in rest %}{% if m.tool_calls %}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% generation %}{% set f = m.tool_calls[0].function %}
{{ '{"name": "' + f.name + '", "parameters": ' }}{{ f.arguments | tojson }}{{ '}<|eot_id|>' }}{% endgeneration %}
{% elif m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
{{ m.content | tojson + '<|eot_id|>' }}{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}
{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endif %}{% endfor %}""" + _ask(
    r"<|start_header_id|>assistant<|end_header_id|>\n\n"
)
MISTRAL1 = r"""{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}
{% elif m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{{ ' ' }}
{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"""
MISTRAL3 = r"""{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}
{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{% set users = namespace(last=0) %}{% for m in rest %}
{% if m.role == 'user' %}{% set users.last = loop.index0 %}{% endif %}{% endfor %}
{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}
{% if tools and loop.index0 == users.last %}
{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
{{ '[INST] ' + (system if loop.index0 == users.last else '') + m.content + '[/INST]' }}{% elif m.tool_calls %}
{% generation %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}{{ c.function | tojson }}
{{ '' if loop.last else ', ' }}{% endfor %}{{ ']' + eos_token }}{% endgeneration %}{% elif m.role == 'tool' %}
{{ '[TOOL_RESULTS] {"content": ' + m.content | tojson + '}[/TOOL_RESULTS]' }}
{% else %}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"""
_CALLS = r"""{% for c in m.tool_calls %}{{ '<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' }}
{{ c.function.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}"""
_TOOLS = r"""{{ '\n\n# Tools\n\n<tools>' }}{% for t in tools %}{{ '\n' + t | tojson }}{% endfor %}{{ '\n</tools>' }}"""
_RESULT = r"""{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"""
QWEN25 = (
    r"""{{ '<|im_start|>system\n' }}
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% else %}{{ 'You are helpful.' }}{% endif %}{% if tools %}"""
    + _TOOLS
    + r"""{% endif %}{{ '<|im_end|>\n' }}{% for m in messages %}
{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{% elif m.role == 'tool' %}"""
    + _RESULT
    + r"""{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}{{ m.content }}
{% if m.tool_calls %}{{ '\n' if m.content else '' }}"""
    + _CALLS
    + r"""{% endif %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% endif %}{% endfor %}"""
    + _ask(r"<|im_start|>assistant\n")
)
QWEN3 = (
    r"""{% if messages[0].role == 'system' or tools %}{{ '<|im_start|>system\n' }}
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{% if tools %}"""
    + _TOOLS
    + r"""{% endif %}{{ '<|im_end|>\n' }}{% endif %}{% set asked = namespace(last=-1) %}{% for m in messages %}
{% if m.role == 'user' %}{% set asked.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}
{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{% elif m.role == 'tool' %}"""
    + _RESULT
    + r"""{% elif m.role == 'assistant' %}{% set thoughts = m.reasoning_content or '' %}{% set said = m.content %}
{% if '</think>' in said and not thoughts %}
{% set thoughts = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}
{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}{% generation %}
{% if loop.index0 > asked.last and (loop.last or thoughts) %}
{{ '<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') }}
{% else %}{{ said }}{% endif %}{% if m.tool_calls %}{{ '\n' if said else '' }}"""
    + _CALLS
    + r"""{% endif %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% endif %}{% endfor %}"""
    + _ask(r"<|im_start|>assistant\n")
)
PHI3 = r"""{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}
{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|end|>' }}{% endif %}
{{ '\n' }}{% endfor %}""" + _ask(r"<|assistant|>\n")
GEMMA = r"""{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}
{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<end_of_turn>' }}{% endgeneration %}{{ '\n' }}
{% else %}{{ m.content | trim + '<end_of_turn>\n' }}{% endif %}{% endfor %}""" + _ask(r"<start_of_turn>model\n")
DEEPSEEK = r"""{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}
{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{% else %}{{ '<｜Assistant｜>' }}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% endif %}
{% endfor %}""" + _ask("<｜Assistant｜>")
GLM4 = r"""{{ '[gMASK]<sop>' }}{% if tools %}{{ '<|system|>\nTools:' }}{% for t in tools %}
{{ '\n\n## ' + t.function.name + '\n\n' + t.function | tojson(indent=4) }}{% endfor %}{% endif %}{% for m in messages %}
{% if m.tool_calls %}{% for c in m.tool_calls %}{{ '<|assistant|>' }}{% generation %}
{{ c.function.name + '\n' }}{{ c.function.arguments | tojson }}{% endgeneration %}{% endfor %}
{% elif m.role == 'tool' %}{{ '<|observation|>\n' + m.content }}
{% elif m.role == 'assistant' %}{{ '<|assistant|>' }}{% generation %}{{ '\n' + m.content }}{% endgeneration %}
{% else %}{{ '<|' + m.role + '|>\n' + m.content }}{% endif %}{% endfor %}""" + _ask("<|assistant|>")
_TURN = "<|START_OF_TURN_TOKEN|>"
COMMAND_R = r"""{{ bos_token }}{% for m in messages %}
{{ '<|START_OF_TURN_TOKEN|>' + {'system': '<|SYSTEM_TOKEN|>', 'user': '<|USER_TOKEN|>',
 'assistant': '<|CHATBOT_TOKEN|>'}[m.role] }}{% if m.role == 'assistant' %}
{% generation %}{{ m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endgeneration %}
{% else %}{{ m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}""" + _ask(
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
)
HERMES = r"""{{ bos_token }}{% if tools %}{{ '<|im_start|>system\nYou call functions. <tools> ' }}
{% for t in tools %}{{ t.function | tojson }}{% endfor %}{{ ' </tools><|im_end|>\n' }}{% endif %}{% for m in messages %}
{% if m.role == 'assistant' %}{{ '<|im_start|>assistant' }}{% generation %}{{ '\n' + m.content if m.content else '' }}
{% for c in m.tool_calls or [] %}{{ '\n<tool_call>\n' + c.function | tojson + '\n</tool_call>' }}{% endfor %}
{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% elif m.role == 'tool' %}
{{ '<|im_start|>tool\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}""" + _ask(
    r"<|im_start|>assistant"
)
ZEPHYR = r"""{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' }}
{% generation %}{{ '\n' + m.content + eos_token }}{% endgeneration %}{% else %}
{{ '<|' + m.role + '|>\n' + m.content + eos_token }}{% endif %}{{ '\n' }}
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"""
VICUNA = r"""{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}{% endif %}
{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content.strip() + ' ' }}{% elif m.role == 'assistant' %}
{{ 'ASSISTANT:' }}{% generation %}{{ ' ' + m.content.strip() + eos_token }}{% endgeneration %}{% endif %}
{% endfor %}""" + _ask("ASSISTANT:")
SOLAR = r"""{% for m in messages %}{% if m.role == 'assistant' %}{{ '### Assistant:\n' }}
{% generation %}{{ m.content }}{% endgeneration %}{{ '\n\n' }}{% else %}
{{ '### ' + m.role.capitalize() + ':\n' + m.content + '\n\n' }}{% endif %}{% endfor %}""" + _ask(r"### Assistant:\n")
OLMO = r"""{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}
{% generation %}{{ m.content + eos_token }}{% endgeneration %}{{ '' if loop.last else '\n' }}
{% else %}{{ m.content + '\n' }}{% endif %}{% endfor %}""" + _ask(r"<|assistant|>\n")
SMOLLM3 = (
    r"""{{ '<|im_start|>system\n## Metadata\n\nReasoning Mode: /think\n\n' }}
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{% if tools %}"""
    + _TOOLS
    + r"""{% endif %}{{ '<|im_end|>\n' }}{% for m in messages %}
{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{% elif m.role == 'tool' %}"""
    + _RESULT
    + r"""{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}
{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n' }}{% endif %}
{{ m.content.lstrip('\n') }}"""
    + _CALLS
    + r"""{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% endif %}{% endfor %}"""
    + _ask(r"<|im_start|>assistant\n")
)
_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_MISTRAL_TOKENS = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]")
_GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_COHERE = (_TURN, "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")
_B, _E = "<|begin_of_text|>", "<|endoftext|>"
FAMILIES = {
    "llama2": Family(LLAMA2, "legacy", "<s>", "</s>"),
    "llama3": Family(LLAMA3, "bytes", _B, "<|eot_id|>", _HEADERS),
    "llama31": Family(LLAMA31, "bytes", _B, "<|eot_id|>", _HEADERS, tools=True),
    "mistral1": Family(MISTRAL1, "legacy", "<s>", "</s>", system=False),
    "mistral3": Family(MISTRAL3, "first", "<s>", "</s>", (*_MISTRAL_TOKENS, "[/TOOL_RESULTS]"), tools=True),
    "chatml": Family(CHATML, "bytes", None, _E, IM),
    "qwen25": Family(QWEN25, "bytes", None, "<|im_end|>", IM, _TAGS[2:4], tools=True),
    "qwen3": Family(QWEN3, "bytes", None, "<|im_end|>", IM, _TAGS, tools=True),
    "phi3": Family(PHI3, "legacy", "<s>", _E, ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"), strips=True),
    "gemma": Family(GEMMA, "spaces", "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), system=False),
    "deepseek": Family(DEEPSEEK, "bytes", "<｜begin｜>", "<｜end｜>", (), ("<｜User｜>", "<｜Assistant｜>")),
    "glm4": Family(GLM4, "bytes", None, _E, _GLM, tools=True, ended=False),
    "command_r": Family(COMMAND_R, "bytes", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", _COHERE),
    "hermes": Family(HERMES, "bytes", _B, "<|im_end|>", IM, tools=True),
    "zephyr": Family(ZEPHYR, "legacy", "<s>", "</s>"),
    "vicuna": Family(VICUNA, "first", "<s>", "</s>"),
    "solar": Family(SOLAR, "legacy", "<s>", "</s>", ended=False),
    "olmo": Family(OLMO, "bytes", None, _E),
    "smollm3": Family(SMOLLM3, "bytes", None, "<|im_end|>", IM, _TAGS, tools=True),
}


def make_tokenizer(family: Family) -> Bpe:
    """``bytes``: words of bytes; ``legacy``: a space before a section; ``first``: before a text; ``spaces``: none."""
    texts = [sentence(number) + "\n" + han(number, 20) for number in range(40)]
    borders = [token for token in (family.bos, family.eos) if token]
    bpe = Bpe(models.BPE(unk_token=None if family.kind == "bytes" else "<unk>", byte_fallback=family.kind != "bytes"))
    alphabet = ["\n"]
    if family.kind == "bytes":
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        if family.kind == "legacy":
            bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        elif family.kind == "spaces":
            bpe.normalizer = normalizers.Replace(" ", "▁")
        else:
            bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    words = [] if family.kind == "bytes" else ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=words, initial_alphabet=alphabet, show_progress=False, max_token_length=12
    )
    bpe.train_from_iterator(texts, trainer)
    made = json.loads(bpe.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] == "<unk>"]
    bpe = Bpe.from_str(json.dumps(made))
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in borders])
    bpe.add_special_tokens(
        [AddedToken(token, special=True, normalized=False, rstrip=family.strips) for token in family.special]
    )
    bpe.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.added])
    return bpe


def write_model(family: Family, folder: Path, *, marks: bool) -> Path:
    """The tokenizer's files of a model of that family; with ``marks`` its template says what is generated."""
    folder.mkdir(parents=True)
    make_tokenizer(family).save(str(folder / "tokenizer.json"))
    template = clean(family.template) if marks else without_marks(clean(family.template))
    config = {"eos_token": family.eos, "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}
    if family.bos:
        config |= {"bos_token": family.bos, "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
