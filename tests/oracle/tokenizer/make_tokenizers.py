"""Writes tests/fixtures/tokenizer: tiny tokenizers in the layouts real models use, and what Python makes of awkward text.

Run from the repository root, with tokenizers 0.23.3, transformers 5.23.0 and jinja2 3.1.6:
    python tests/oracle/tokenizer/make_tokenizers.py

Each folder holds the files a model folder has (tokenizer.json, tokenizer_config.json, ...) and expected.json:
    encode: [{text, ids, special, offsets, decoded, skipped}]  ids without and with special tokens; offsets in UTF-16
            units; both decodings of the ids with special tokens
    decode: [{ids, text}]       arbitrary ids, broken UTF-8 included
Everything is seeded, so a second run writes the same bytes.
"""

import json
import math
import random
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from texts import CORPUS, TEXTS

OUT = Path("tests/fixtures/tokenizer")

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

CHATML = """{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system
You are helpful.<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

HEADERS = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

INST = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}\
{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}\
{{ ' ' + message['content'] + eos_token }}{% else %}\
{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

TURNS = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model
' }}{% endif %}"""


def special(text, **options):
    return AddedToken(text, special=True, normalized=False, **options)


def byte_level(pre, vocab=420, normalizer=None, ignore_merges=False, initial=()):
    """Byte-level BPE trained on the corpus; `initial` take the first ids, as special tokens do in GPT-2."""
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tok.pre_tokenizer = pre
    if normalizer is not None:
        tok.normalizer = normalizer
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[special(token) for token in initial],
        show_progress=False,
    )
    tok.train_from_iterator(CORPUS, trainer)
    return tok


def sentencepiece(normalizer, pre, decoder, vocab=620):
    """BPE over characters with byte fallback: the layout the Llama-2 and Gemma converters write."""
    tok = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if normalizer is not None:
        tok.normalizer = normalizer
    if pre is not None:
        tok.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)],
        show_progress=False,
        max_token_length=12,
    )
    # Training splits at "▁" so that no merge crosses a word; the real vocabularies have few that do.
    split = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tok.pre_tokenizer = split
    tok.normalizer = None
    tok.train_from_iterator(CORPUS, trainer)
    model = json.loads(tok.to_str())
    model["added_tokens"] = [t for t in model["added_tokens"] if not t["content"].startswith("<0x")]
    tok = Tokenizer.from_str(json.dumps(model))
    if normalizer is not None:
        tok.normalizer = normalizer
    if pre is None:
        model = json.loads(tok.to_str())
        model["pre_tokenizer"] = None
        tok = Tokenizer.from_str(json.dumps(model))
    else:
        tok.pre_tokenizer = pre
    tok.decoder = decoder
    return tok


def bos_template(bos, tok, byte_level_first):
    template = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tok.token_to_id(bos))]
    )
    if not byte_level_first:
        return template
    return processors.Sequence([processors.ByteLevel(trim_offsets=False), template])


def split_regex(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def make_gpt2():
    tok = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), initial=["<|endoftext|>"])
    config = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return tok, {**config, "add_prefix_space": False, "tokenizer_class": "GPT2Tokenizer"}, None


def make_smollm():
    pre = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tok = byte_level(pre, initial=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return tok, {**config, "unk_token": "<|endoftext|>", "clean_up_tokenization_spaces": True}, CHATML


def make_llama3():
    tok = byte_level(split_regex(LLAMA3), ignore_merges=True)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tok.add_special_tokens([special(name) for name in names])
    tok.post_processor = bos_template("<|begin_of_text|>", tok, True)
    config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "clean_up_tokenization_spaces": True}
    return tok, config, HEADERS


def make_qwen2():
    tok = byte_level(split_regex(QWEN2), normalizer=normalizers.NFC())
    tok.add_special_tokens([special(name) for name in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]])
    tok.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("<think>", normalized=False)])
    config = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}
    return tok, config, CHATML


def make_o200k():
    """The o200k pattern, and added tokens with every option."""
    tok = byte_level(split_regex(O200K))
    tok.add_special_tokens([special("<|endoftext|>"), special("<|end|>", rstrip=True), special("<｜bos▁é｜>")])
    tok.add_tokens(
        [
            AddedToken("<mask>", lstrip=True, normalized=False),
            AddedToken("word", single_word=True, normalized=False),
            AddedToken("<both>", lstrip=True, rstrip=True),
            AddedToken("<mask>ed"),
            AddedToken("     "),
            AddedToken("<é>", normalized=False),
        ]
    )
    return tok, {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}, None


def make_deepseek():
    """A sequence of Splits of every behaviour that models use, then Digits, Punctuation and ByteLevel."""
    pre = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[\r\n]"), behavior="isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{L}+"), behavior="isolated"),
            pre_tokenizers.Split(Regex(r"[一-龥ࠀ-一가-퟿]+"), behavior="isolated"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Split(".", behavior="merged_with_previous"),
            pre_tokenizers.Split("-", behavior="merged_with_next"),
            pre_tokenizers.Split(Regex("[ab]"), behavior="contiguous"),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tok = byte_level(pre, initial=["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"])
    tok.post_processor = bos_template("<｜begin▁of▁sentence｜>", tok, True)
    return tok, {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}, None


def make_llama2():
    """Llama-2's converted layout: no pre-tokenizer, a Prepend normaliser, byte fallback."""
    tok = sentencepiece(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    )
    tok.add_tokens([AddedToken("<norm>"), AddedToken("two words")])
    tok.post_processor = bos_template("<s>", tok, False)
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    return tok, {**config, "add_eos_token": False, "legacy": True}, INST


def make_mistral():
    """The newer layout of the same family: Metaspace, prepended to the first section only."""
    tok = sentencepiece(
        None,
        pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    )
    tok.add_tokens([AddedToken("<norm>")])
    tok.post_processor = bos_template("<s>", tok, False)
    return tok, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False}, INST


def make_gemma():
    tok = sentencepiece(
        normalizers.Replace(" ", "▁"),
        pre_tokenizers.Split(" ", behavior="merged_with_previous"),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    )
    tok.add_special_tokens([special(name) for name in ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"]])
    tok.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("▁▁", normalized=False)])
    tok.post_processor = bos_template("<bos>", tok, False)
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return tok, config, TURNS


def make_metaspace():
    """Metaspace with splitting and its own decoder, as in small SentencePiece models; added tokens are normalised."""
    tok = sentencepiece(
        normalizers.NFKC(),
        pre_tokenizers.Metaspace(prepend_scheme="always", split=True),
        decoders.Metaspace(prepend_scheme="always", split=True),
    )
    tok.add_tokens([AddedToken("<norm>"), AddedToken("ﬁx")])
    return tok, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, None


def make_unigram():
    """A Unigram model, as T5 has: left to the library. Its training is not deterministic, so the vocabulary is counted:
    every character, and every piece of two to six characters seen at least six times, scored by log frequency."""
    counts = Counter()
    for line in CORPUS:
        for word in ("▁" + line.replace(" ", " ▁")).split(" "):
            for size in range(1, 7):
                counts.update(word[i : i + size] for i in range(len(word) - size + 1))
    total = sum(counts.values())
    kept = sorted((piece for piece, n in counts.items() if len(piece) == 1 or n >= 12), key=lambda p: (-counts[p], p))
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(piece, round(math.log(counts[piece] / total), 4)) for piece in kept]
    tok = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    tok.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tok, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}, None


def utf16_offsets(text, offsets):
    """Code-point offsets as UTF-16 offsets, which is what a JavaScript string is indexed by."""
    at = [0]
    for char in text:
        at.append(at[-1] + (2 if ord(char) > 0xFFFF else 1))
    return [[at[a], at[b]] for a, b in offsets]


def expected(tok):
    rng = random.Random(7)
    encode = []
    for text in TEXTS:
        plain = tok.encode(text, add_special_tokens=False)
        ids = tok.encode(text).ids
        row = {"text": text, "ids": plain.ids, "special": ids if ids != plain.ids else None}
        row["offsets"] = utf16_offsets(text, plain.offsets)
        row["decoded"] = tok.decode(ids, skip_special_tokens=False)
        row["skipped"] = tok.decode(ids, skip_special_tokens=True)
        if row["decoded"] == text:
            del row["decoded"]
        if row["skipped"] == text:
            del row["skipped"]
        if row["special"] is None:
            del row["special"]
        encode.append(row)
    decode = []
    size = tok.get_vocab_size()
    for _ in range(40):
        ids = [rng.randrange(size) for _ in range(rng.randrange(1, 12))]
        decode.append({"ids": ids, "text": tok.decode(ids, skip_special_tokens=False)})
    # Every cut of a text with long characters: the broken halves a streaming decoder must hold back.
    ids = tok.encode("naïve 👩‍👩‍👧 漢字 é\u0301", add_special_tokens=False).ids
    for cut in range(1, len(ids)):
        decode.append({"ids": ids[:cut], "text": tok.decode(ids[:cut], skip_special_tokens=False)})
        decode.append({"ids": ids[cut:], "text": tok.decode(ids[cut:], skip_special_tokens=False)})
    return {"encode": encode, "decode": decode}


def dump(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    makers = {name[5:]: make for name, make in globals().items() if name.startswith("make_")}
    for name, make in makers.items():
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        tok, config, template = make()
        tok.save(str(folder / "tokenizer.json"), pretty=False)
        dump(folder / "tokenizer_config.json", config)
        names = {k: v for k, v in config.items() if k.endswith("_token") and isinstance(v, str)}
        dump(folder / "special_tokens_map.json", names)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        lines = json.dumps(expected(tok), ensure_ascii=True).replace('}, {"', '},\n{"')
        (folder / "expected.json").write_text(lines + "\n", encoding="utf-8")
        print(name, tok.get_vocab_size(), (folder / "tokenizer.json").stat().st_size)


if __name__ == "__main__":
    main()
