"""Strings that are hard on tokenizers: many scripts, emoji, white space, control characters, normal
forms, contractions, numbers, names of special tokens, and mixtures of all of them.

Only characters that Unicode 14 assigns: libraries of different age agree on those. Used by
tokenizer_goldens.py.
"""

import random
import unicodedata

SENTENCES = """
The quick brown fox jumps over the lazy dog, but the dog doesn't mind at all.
It's what we've been told: you'll see that they're right, I'd say, and I'm sure he can't.
Packages are installed with their dependencies; version 3.14 (2024-06-01) costs $1,234.56!
In the beginning the universe was created. This has made a lot of people very angry.
for (int i = 0; i < 10; ++i) { sum += x[i] * y[i]; }  // the inner product
def main(args):\\n    if not args:\\n        return None\\n\\n    print(f"{args[0]!r}")
<a href="https://example.org/path?q=1&r=2#top">link</a> <br/> &amp; e-mail: a.b@c-d.net
SELECT * FROM table WHERE id >= 42 AND name LIKE '%o''Neil%';
C:\\\\Windows\\\\System32 and /usr/share/doc/README.gz --option=value | grep -v "^#" > out.txt
Language models read text as tokens, and tokens are made by merging the most frequent pairs.
A model with linear attention carries a state of fixed size, however long the text has become.
Don't panic! 'Tis true; rock 'n' roll isn't dead. He said: "She'd've gone, y'all'll see."
Alle Menschen sind frei und gleich an Würde und Rechten geboren; größer, schöner, Straße.
Tous les êtres humains naissent libres et égaux en dignité; l'été, où ça? « Oui », c'est ça.
Todos los seres humanos nacen libres e iguales; ¿verdad? ¡Sí, señor! El niño comió piñas.
Tutti gli esseri umani nascono liberi ed eguali; perché no? È così, cioè più giù.
Wszyscy ludzie rodzą się wolni i równi; zażółć gęślą jaźń.
Příliš žluťoučký kůň úpěl ďábelské ódy.
Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar; İstanbul, ılık, şöyle.
Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.
Все люди рождаются свободными и равными в своём достоинстве и правах.
Усі люди народжуються вільними і рівними; їжак, ґанок.
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.
כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. שָׁלוֹם
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. السَّلامُ عليكم ١٢٣٤
تمام انسان‌ها آزاد به دنیا می‌آیند و از نظر حیثیت و حقوق برابرند. ۱۲۳۴
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। १२३
সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। ১২৩
மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ๑๒๓
人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。
人人生而自由，在尊嚴和權利上一律平等。她說：「你好嗎？」
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。ｶﾀｶﾅ
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.
Բոլոր մարդիկ ծնվում են ազատ ու հավասար իրենց արժանապատվությամբ ու իրավունքներով։
ሰው ሁሉ ነፃ ሆኖ የተወለደ እና በክብርና በሀብትም እኩልነት ያለው ነው።
""".strip().split("\n")
SENTENCES = [s.replace("\\n", "\n").replace("\\\\", "\\") for s in SENTENCES]

SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\u00a0", "\u1680",
          "\u2003", "\u2009", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\x0b",
          "\x0c", "\x85", "\ufeff", " " * 7, " " * 24, " " * 30, "\t\t\t"]
EMOJI = ["😀", "👍", "👍🏽", "👩‍👩‍👧‍👦", "🇩🇪", "🏳️‍🌈", "❤️", "☃", "✂️", "🤷🏻‍♀️", "1️⃣", "©", "™",
         "🫠", "🧑🏿‍🚀", "♥", "→", "∑", "€", "½", "²", "Ⅻ", "①", "〇"]
CONTROLS = [chr(c) for c in range(32)] + ["\x7f", "\x80", "\x9f", "\u200c", "\u200d", "\u200e",
                                          "\u202e", "\u2060", "\ufffd", "\ufff9", "\U000e0001"]
FORMS = ["é", "e\u0301", "Å", "A\u030a", "\u212b", "ﬁ", "ﬃ", "ｆｕｌｌ", "Ω", "\u2126", "가", "\u1100\u1161",
         "ǆ", "ẛ̣", "\u0344", "a\u0323\u0307", "a\u0307\u0323", "İ", "ß", "ſ", "ŉ", "ﬀ", "…", "㎏",
         "\u0958", "क\u093c", "ᾳ", "ΐ", "\u0345", "ö", "o\u0308", "Σ", "ς"]
CONTRACTIONS = [a + q + b for q in ["'", "’"] for a in ["I", "he", "WE", "x1", "", " ", "!"]
                for b in ["s", "S", "t", "T", "re", "RE", "rE", "ve", "Ve", "m", "M", "ll", "LL", "lL",
                          "d", "D", "\u017f", "l", "r", "v", "sam", "TOM", "llx", "'s", "1s"]]
NUMBERS = ["0", "7", "42", "123", "1234", "12345678", "3.14", "1,000", "1e10", "0x1F", "٣٤", "१२३४",
           "１２３", "②③", "Ⅷ", "½¾", "12ab34", "v2", "10%", "๔๒"]
SPECIAL = ["<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>",
           "[MASK]", "<extra>", "<|endof", "|>", "▁", "Ġ", "<0x41>", "<0xE4>"]
SCRIPTS = [(0x20, 0x7e), (0xa0, 0xff), (0x100, 0x24f), (0x250, 0x2ff), (0x300, 0x36f), (0x370, 0x3ff),
           (0x400, 0x52f), (0x530, 0x58f), (0x590, 0x5ff), (0x600, 0x6ff), (0x700, 0x74f),
           (0x900, 0x97f), (0x980, 0x9ff), (0xa00, 0xa7f), (0xa80, 0xaff), (0xb00, 0xb7f),
           (0xb80, 0xbff), (0xc00, 0xc7f), (0xc80, 0xcff), (0xd00, 0xd7f), (0xd80, 0xdff),
           (0xe00, 0xe7f), (0xe80, 0xeff), (0xf00, 0xfff), (0x1000, 0x109f), (0x10a0, 0x10ff),
           (0x1100, 0x11ff), (0x1200, 0x137f), (0x13a0, 0x13ff), (0x1400, 0x167f), (0x16a0, 0x16ff),
           (0x1780, 0x17ff), (0x1800, 0x18af), (0x1d00, 0x1d7f), (0x1e00, 0x1eff), (0x1f00, 0x1fff),
           (0x2000, 0x206f), (0x2070, 0x209f), (0x20a0, 0x20cf), (0x2100, 0x214f), (0x2150, 0x218f),
           (0x2190, 0x21ff), (0x2200, 0x22ff), (0x2300, 0x23ff), (0x2460, 0x24ff), (0x2500, 0x257f),
           (0x2600, 0x26ff), (0x2700, 0x27bf), (0x2800, 0x28ff), (0x2c00, 0x2c5f), (0x2e80, 0x2eff),
           (0x3000, 0x303f), (0x3040, 0x309f), (0x30a0, 0x30ff), (0x3130, 0x318f), (0x3200, 0x32ff),
           (0x3400, 0x4dbf), (0x4e00, 0x9fff), (0xa000, 0xa48f), (0xa4d0, 0xa4ff), (0xa720, 0xa7ff),
           (0xac00, 0xd7a3), (0xf900, 0xfaff), (0xfb00, 0xfb4f), (0xfe70, 0xfeff), (0xff00, 0xffef),
           (0x10000, 0x1007f), (0x10330, 0x1034f), (0x10400, 0x1044f), (0x12000, 0x123ff),
           (0x1d100, 0x1d1ff), (0x1d400, 0x1d7ff), (0x1f300, 0x1f5ff), (0x1f600, 0x1f64f),
           (0x20000, 0x2a6df), (0xe0100, 0xe01ef)]


def assigned(rng, low, high):
    while True:
        c = chr(rng.randint(low, high))
        if unicodedata.category(c) not in ("Cn", "Cs", "Co"):
            return c


def strings(count=2400, seed=20241128):
    """At least `count` different strings, the same ones each time."""
    rng = random.Random(seed)
    out = ["", " ", "a", "\n"] + SENTENCES + CONTRACTIONS + NUMBERS + EMOJI + FORMS + CONTROLS + SPACES
    out += SPECIAL + [a + s + b for s in SPECIAL for a in ["x", "x ", "\n"] for b in ["y", " y"]]
    for low, high in SCRIPTS:
        for length in (1, 4, 9):
            out.append("".join(assigned(rng, low, high) for _ in range(length)))
    words = [w for s in SENTENCES for w in s.split()]
    kinds = [words, words, words, SPACES, SPACES, [" "], [" "], EMOJI, CONTROLS, FORMS, CONTRACTIONS,
             NUMBERS, SPECIAL, list(".,;:!?-_'\"()[]{}/\\@#$%^&*+=<>|~`")]
    while len(out) < count:
        out.append("".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(2, 9))))
        out = list(dict.fromkeys(out))
    return out


def byte_strings(count=200, seed=7):
    """Bytes that are not UTF-8: cut, overlong, surrogates, stray ones between text."""
    rng = random.Random(seed)
    broken = [b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\x80",
              b"\xf4\x90\x80\x80", b"\xfe\xfe"]
    text = [w.encode() for s in SENTENCES for w in s.split()] + [b" ", b"  ", b"\n", b" \n ", b"\t"]
    out = list(broken)
    while len(out) < count:
        parts = [rng.choice(text if rng.random() < 0.7 else broken) for _ in range(rng.randint(2, 8))]
        parts.insert(rng.randint(0, len(parts)), rng.choice(broken))
        out.append(b"".join(parts))
        out = list(dict.fromkeys(out))
    return out
