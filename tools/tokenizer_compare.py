"""Does metala give a tokenizer's own ids? Compares it with the original library on hard strings.

    pip install tiktoken==0.14.0 tokenizers==0.23.3 sentencepiece==0.2.3
    python3 tools/tokenizer_compare.py build/release/metala FILE [TEXT]

FILE is a tokenizer.json, a tokenizer.model or a NAME.tiktoken with its NAME.tiktoken.json. The strings
are tokenizer_strings.py's and the lines of TEXT. Names of special tokens are read as text.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from tokenizer_strings import strings


def original(path):
    if path.suffix == ".json":
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.encode_special_tokens = True
        return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    if path.suffix == ".model":
        import sentencepiece
        return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode
    import tiktoken
    import tiktoken.load
    from tokenizer_goldens import CL100K, GPT2, O200K
    beside = pathlib.Path(f"{path}.json")
    pattern = json.loads(beside.read_text()).get("pattern") if beside.exists() else "cl100k"
    pattern = {"cl100k": CL100K, "gpt2": GPT2, "o200k": O200K}.get(pattern, pattern)
    return tiktoken.Encoding(path.stem, pat_str=pattern, special_tokens={},
                             mergeable_ranks=tiktoken.load.load_tiktoken_bpe(str(path))).encode_ordinary


def main():
    program, path, *texts = sys.argv[1:]
    lines = [s for s in strings() if "\n" not in s]
    for text in texts:
        lines += pathlib.Path(text).read_text().rstrip("\n").split("\n")
    with tempfile.NamedTemporaryFile("w", newline="\n") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        printed = subprocess.run(
            [program, "tokenize", path, "--lines", "--as-text", "--json", "--file", file.name],
            check=True, capture_output=True).stdout
    encode = original(pathlib.Path(path))
    wrong = 0
    for line, got in zip(lines, printed.splitlines(), strict=True):
        got, want = json.loads(got), encode(line)
        if got != want:
            wrong += 1
            if wrong <= 10:
                print(f"{line!r}\n  metala   {got}\n  original {want}")
    print(f"{path}: {len(lines)} lines, {wrong} with other ids")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
