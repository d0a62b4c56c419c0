"""Trains small vocabularies with tiktoken, tokenizers and sentencepiece, and writes what those
libraries make of tokenizer_strings.py: the truth that metala's tokenizers are tested against.

    pip install tiktoken==0.14.0 tokenizers==0.23.3 sentencepiece==0.2.3
    python3 tools/tokenizer_goldens.py [NAME ...]        no name: all

Writes into tests/tokenizers: strings.json, bytes.json (hex), and for each vocabulary a folder with
the vocabulary itself and

    ids.bin         for every string a u16 count and that many u16 ids, names of special tokens read
                    as those tokens
    expected.json   "as_text": {index: ids} where reading those names as text gives others;
                    "decoded": {index: text} where decoding does not give the string back;
                    "sequences": [[ids, text], ...] for ids drawn at random;
                    "bytes": [ids, ...] for bytes.json, where the library takes bytes
"""

import base64
import json
import pathlib
import random
import struct
import sys

import sentencepiece
import tiktoken
from tiktoken._educational import bpe_train
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

from tokenizer_strings import SENTENCES, byte_strings, strings

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "tokenizers"
STRINGS = strings()
BYTES = byte_strings()
TEXTS = SENTENCES * 4 + STRINGS
VOCABULARY = 700

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K_BASE = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
               r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
QWEN = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


# ---- writing what a library says


def write_expected(name, encode, decode, vocabulary, as_text=None, of_bytes=None):
    folder = FOLDER / name
    packed = bytearray()
    expected = {"as_text": {}, "decoded": {}, "sequences": []}
    for i, text in enumerate(STRINGS):
        ids = encode(text)
        packed += struct.pack(f"<{len(ids) + 1}H", len(ids), *ids)
        if as_text is not None and as_text(text) != ids:
            expected["as_text"][i] = as_text(text)
        if decode(ids) != text:
            expected["decoded"][i] = decode(ids)
    rng = random.Random(1)
    for _ in range(100):
        ids = [rng.choice(vocabulary) for _ in range(rng.randint(1, 12))]
        expected["sequences"].append([ids, decode(ids)])
    if of_bytes is not None:
        expected["bytes"] = [of_bytes(b) for b in BYTES]
    (folder / "ids.bin").write_bytes(packed)
    (folder / "expected.json").write_text(
        json.dumps(expected, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{name}: {len(packed) // 2 - len(STRINGS)} ids, {len(expected['as_text'])} as text, "
          f"{len(expected['decoded'])} decoded otherwise")


# ---- tokenizers


def write_tokenizer(name, tokenizer, change=lambda j: None):
    """Saves it, changed as JSON, without merges of nothing, and asks the library that reads that."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(tokenizer.to_str())
    change(content)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
    special = Tokenizer.from_file(str(path))
    plain = Tokenizer.from_file(str(path))
    plain.encode_special_tokens = True
    write_expected(name, lambda s: special.encode(s, add_special_tokens=False).ids,
                   lambda ids: special.decode(ids), range(special.get_vocab_size()),
                   as_text=lambda s: plain.encode(s, add_special_tokens=False).ids)


def trained(pre_tokenizer, normalizer=None, decoder=None, special=(), alphabet=True, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if decoder is not None:
        tokenizer.decoder = decoder
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [],
        limit_alphabet=300)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_level(**options):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def gpt2():
    t = trained(byte_level(), decoder=decoders.ByteLevel(), special=["<|endoftext|>"])
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    write_tokenizer("gpt2", t)


def neox():
    t = trained(byte_level(), normalizers.NFC(), decoders.ByteLevel(), ["<|endoftext|>", "<|padding|>"])
    t.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    write_tokenizer("neox", t)


def llama3():
    t = trained(pre_tokenizers.Sequence([split(CL100K), byte_level(use_regex=False)]),
                decoder=decoders.ByteLevel(), ignore_merges=True)
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    begin = t.token_to_id("<|endoftext|>")
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)])])
    write_tokenizer("llama3", t)


def qwen():
    t = trained(pre_tokenizers.Sequence([split(QWEN), byte_level(use_regex=False)]),
                normalizers.NFC(), decoders.ByteLevel())
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("<|fim_prefix|>", normalized=False)])
    write_tokenizer("qwen", t)


def gpt4o():
    t = trained(pre_tokenizers.Sequence([split(O200K, "removed", True), byte_level(use_regex=False)]),
                decoder=decoders.ByteLevel(), special=["<|endoftext|>"])
    write_tokenizer("gpt4o", t)


def deepseek():
    stages = [split(r"[\r\n]"), split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+"),
              split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"), split("[一-龥ࠀ-一가-퟿]+"),
              pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=False)]
    write_tokenizer("deepseek", trained(pre_tokenizers.Sequence(stages), decoder=decoders.ByteLevel()))


def starcoder():
    stages = [pre_tokenizers.Digits(individual_digits=True), byte_level(add_prefix_space=True)]
    write_tokenizer("starcoder", trained(pre_tokenizers.Sequence(stages), decoder=decoders.ByteLevel(),
                                         special=["<|endoftext|>", "<|fim_prefix|>"]))


def metaspace():
    """Unknown characters one by one, text changed before it is cut."""
    normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(),
        normalizers.Replace(Regex(r"\s{2,}"), " "), normalizers.Replace("``", '"')])
    stages = [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(),
              pre_tokenizers.Digits(individual_digits=False)]
    t = trained(pre_tokenizers.Sequence(stages), normalizer, decoders.Metaspace(), ["<unk>", "<s>"],
                alphabet=False, unk_token="<unk>")
    t.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=True)])
    write_tokenizer("metaspace", t)


def words():
    """Unknown characters as one, added tokens with every condition, tokens joined by spaces."""
    stages = [pre_tokenizers.Split("-", "merged_with_next"), pre_tokenizers.Whitespace(),
              pre_tokenizers.FixedLength(5)]
    t = trained(pre_tokenizers.Sequence(stages), normalizers.NFD(), special=["<unk>"], alphabet=False,
                unk_token="<unk>", fuse_unk=True)
    t.add_special_tokens([AddedToken("[MASK]", lstrip=True, rstrip=True), AddedToken("<s>", rstrip=True),
                          AddedToken("</s>", lstrip=True)])
    t.add_tokens([AddedToken("the", single_word=True), AddedToken("e\u0301", normalized=True),
                  AddedToken("<extra>", normalized=False)])
    write_tokenizer("words", t)


def splits():
    """What is left of the ways to cut, and characters that vanish because nothing stands for them."""
    stages = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.CharDelimiterSplit(","),
              split("[aeiou]", "contiguous"), split("[.;:]", "merged_with_previous"),
              split("(?=[A-Z])"), split(r"[\p{L}\p{M}\p{N}]+", "removed", True), split(r"\d", "removed")]
    t = trained(pre_tokenizers.Sequence(stages), normalizers.NFKD(), decoders.Fuse(), alphabet=False)
    write_tokenizer("splits", t)


# ---- tokenizer.json made from a SentencePiece model, as converters do


def sentencepiece_model(name, **options):
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / "tokenizer"
    training = folder / "training.txt"
    training.write_text("\n".join(t.replace("\n", " ") for t in SENTENCES * 40 + STRINGS if t.strip() and "\0" not in t))
    sentencepiece.SentencePieceTrainer.train(
        input=str(training), model_prefix=str(prefix), vocab_size=1000, minloglevel=2,
        num_threads=1, **options)
    training.unlink()
    (folder / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(prefix) + ".model")


LLAMA = dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
             remove_extra_whitespaces=False, split_digits=True, character_coverage=0.98,
             allow_whitespace_only_pieces=True)


def converted(model):
    """Vocabulary and merges: every way to put a piece together from two, best piece first."""
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    ids = {p: i for i, p in enumerate(pieces)}
    merges = []
    for piece, i in ids.items():
        pairs = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        pairs = sorted((p for p in pairs if p[0] in ids and p[1] in ids),
                       key=lambda p: (ids[p[0]], ids[p[1]]))
        merges += [(a, b, model.get_score(i)) for a, b in pairs]
    merges.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return ids, [(a, b) for a, b, _ in merges]


def llama_like(name, change, model=None):
    ids, merges = converted(model or sentencepiece.SentencePieceProcessor(
        model_file=str(FOLDER / "sentencepiece_llama" / "tokenizer.model")))
    t = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.add_special_tokens([AddedToken(s, normalized=False) for s in ["<unk>", "<s>", "</s>"]])
    t.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    change(t)
    write_tokenizer(name, t)


def llama_legacy():
    def change(t):
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        t.add_tokens([AddedToken("<extra>", normalized=True), AddedToken("[MASK]", normalized=False)])
    llama_like("llama_legacy", change)


def llama():
    def change(t):
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    llama_like("llama", change)


def gemma():
    def change(t):
        t.normalizer = normalizers.Replace(" ", "▁")
        t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                       decoders.Fuse()])
    llama_like("gemma", change)


# ---- sentencepiece


def write_sentencepiece(name, model):
    vocabulary = range(model.get_piece_size())
    write_expected(name, model.encode, model.decode, vocabulary)


def sentencepiece_llama():
    write_sentencepiece("sentencepiece_llama", sentencepiece_model("sentencepiece_llama", **LLAMA))


def sentencepiece_nfkc():
    write_sentencepiece("sentencepiece_nfkc", sentencepiece_model(
        "sentencepiece_nfkc", model_type="bpe", character_coverage=0.98,
        user_defined_symbols=["<extra>"]))


def sentencepiece_unigram():
    write_sentencepiece("sentencepiece_unigram", sentencepiece_model(
        "sentencepiece_unigram", model_type="unigram", character_coverage=0.98, byte_fallback=True,
        normalization_rule_name="identity"))


# ---- tiktoken


def write_tiktoken(name, pattern, spelled):
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    training = "\n".join(SENTENCES * 2)
    ranks = bpe_train(training, VOCABULARY, pattern, visualise=None)
    special = {"<|endoftext|>": VOCABULARY, "<|im_start|>": VOCABULARY + 3, "<|im_end|>": VOCABULARY + 4}
    (folder / "small.tiktoken").write_bytes(b"".join(
        base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    description = {"pattern": spelled, "special_tokens": special, "eos_token": "<|endoftext|>"}
    (folder / "small.tiktoken.json").write_text(json.dumps(description, indent=1) + "\n")
    e = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    write_expected(name, lambda s: e.encode(s, allowed_special="all"), lambda ids: e.decode([i for i in ids if i < VOCABULARY]), range(VOCABULARY),
                   as_text=e.encode_ordinary, of_bytes=e._encode_bytes)


def tiktoken_cl100k():
    write_tiktoken("tiktoken_cl100k", CL100K, "cl100k")


def tiktoken_cl100k_base():
    write_tiktoken("tiktoken_cl100k_base", CL100K_BASE, CL100K_BASE)


def tiktoken_gpt2():
    write_tiktoken("tiktoken_gpt2", GPT2, "gpt2")


def tiktoken_o200k():
    write_tiktoken("tiktoken_o200k", O200K, "o200k")


ALL = [gpt2, neox, llama3, qwen, gpt4o, deepseek, starcoder, metaspace, words, splits,
       sentencepiece_llama, sentencepiece_nfkc, sentencepiece_unigram, llama_legacy, llama, gemma,
       tiktoken_cl100k, tiktoken_cl100k_base, tiktoken_gpt2, tiktoken_o200k]


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "strings.json").write_text(json.dumps(STRINGS, ensure_ascii=False, indent=0) + "\n")
    (FOLDER / "bytes.json").write_text(json.dumps([b.hex() for b in BYTES], indent=0) + "\n")
    wanted = sys.argv[1:]
    for make in ALL:
        if not wanted or make.__name__ in wanted:
            make()


if __name__ == "__main__":
    main()
