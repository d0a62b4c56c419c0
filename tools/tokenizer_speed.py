"""How fast metala encodes a text, beside tiktoken and tokenizers on the same vocabulary, one thread.

    pip install tiktoken==0.14.0 tokenizers==0.23.3
    python3 tools/tokenizer_speed.py build/release/metala TEXT FOLDER

Trains a byte-level vocabulary of 32,000 tokens with GPT-2's pattern on TEXT into FOLDER unless it is
there, as tokenizer.json and as tiktoken ranks (read with GPT-4's pattern). Then the libraries take
turns at encoding TEXT, three times each; ids must agree; medians are compared. tokenizers also
encodes TEXT as documents of some 4,000 characters, which suits it better; its better median counts.
"""

import base64
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tiktoken  # noqa: E402
import tiktoken.load  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

ROUNDS = 3
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def train(text, folder):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=32000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.save(str(folder / "tokenizer.json"))
    byte_of = {c: b for b, c in bytes_to_characters().items()}
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in tokenizer.get_vocab().items()}
    lines = [base64.b64encode(t) + b" %d\n" % r for t, r in sorted(ranks.items(), key=lambda x: x[1])]
    (folder / "ranks.tiktoken").write_bytes(b"".join(lines))
    (folder / "ranks.tiktoken.json").write_text(json.dumps({"pattern": "cl100k"}))


def bytes_to_characters():
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in kept]
    return {**{b: chr(b) for b in kept}, **{b: chr(0x100 + i) for i, b in enumerate(others)}}


def metala(program, vocabulary, path):
    report = json.loads(subprocess.run(
        [program, "tokenize", str(vocabulary), "--file", path, "--json", "--ids"], check=True,
        capture_output=True).stdout)
    return report["seconds"], report["ids"]


def timed(encode, text):
    start = time.perf_counter()
    ids = encode(text)
    return time.perf_counter() - start, ids


def documents(text, characters=4000):
    """Cut after line breaks."""
    lines, one = [], ""
    for line in text.splitlines(keepends=True):
        one += line
        if len(one) >= characters:
            lines.append(one)
            one = ""
    return [*lines, one]


def compare(name, library, encode, faster, program, vocabulary, path, text):
    size = len(text.encode()) / 1e6
    whole, cut, ours = [], [], []
    for _ in range(ROUNDS):
        seconds, expected = timed(encode, text)
        whole.append(seconds)
        if faster is not None:
            cut.append(timed(faster, documents(text))[0])
        seconds, ids = metala(program, vocabulary, path)
        ours.append(seconds)
        assert ids == expected, name
    their = min(statistics.median(t) for t in (whole, cut) if t)
    our = statistics.median(ours)
    in_documents = f" ({size / statistics.median(cut):.1f} in documents)" if cut else ""
    print(f"{name}: {library} {size / statistics.median(whole):.1f} MB/s{in_documents}, "
          f"metala {size / our:.1f} MB/s, {their / our:.1f} times as fast; "
          f"{len(ids)} ids, the same", flush=True)


def main():
    program, path, folder = sys.argv[1:]
    folder = pathlib.Path(folder)
    text = pathlib.Path(path).read_text()
    if not (folder / "tokenizer.json").exists():
        train(text, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ranks = tiktoken.load.load_tiktoken_bpe(str(folder / "ranks.tiktoken"))
    encoding = tiktoken.Encoding("cl100k-like", pat_str=CL100K, mergeable_ranks=ranks,
                                 special_tokens={})
    compare("tiktoken ranks, cl100k pattern", "tiktoken", encoding.encode_ordinary, None,
            program, folder / "ranks.tiktoken", path, text)
    compare("tokenizer.json, ByteLevel", "tokenizers", lambda t: tokenizer.encode(t).ids,
            tokenizer.encode_batch_fast, program, folder / "tokenizer.json", path, text)


if __name__ == "__main__":
    main()
