"""Trains tiny tokenizers and writes what their own libraries make of a multilingual corpus (cases.json).

    pip install tokenizers sentencepiece && python make.py
"""

import io
import json
import pathlib

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
TEXTS = [
    "", " ", "Hello, world!", "  two  spaces ", "I'll've we're DON'T they'D", "tabs\tand\nnewlines\r\n\n\n end", "naïve café Zürich großartig",
    "Ça va très bien, où êtes-vous?", "Привет, мир! Как дела?", "日本語のテキストです。東京タワー", "中文字符測試,你好世界", "한국어 텍스트 안녕하세요", "مرحبا بالعالم",
    "नमस्ते दुनिया", "🙂👩‍👩‍👧‍👦 emoji 🇩🇪", "1234567890 3.14 1,000,000 x86_64", "def f(x):\n    return x ** 2  # code\n", "a\u0301 combining e\u0308",
    "x" * 200, "MiXeD CaSe ABC", "https://example.org/path?q=1&r=2", "\u200b\ufeff zero width", "snake_case and camelCase", "—“quotes”…",
]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(split):
    tok = Tokenizer(models.BPE(ignore_merges=split == "llama3"))
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    with_regex = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split == "qwen2":
        tok.normalizer = normalizers.NFC()
    regex = {"llama3": LLAMA3, "qwen2": QWEN2}.get(split)
    if regex:
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), bytes_only])
    elif split == "smollm":
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), with_regex])
    else:
        tok.pre_tokenizer = with_regex
    tok.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=420, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False))
    return tok


def word_piece():
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tok.train_from_iterator(TEXTS * 3, trainers.WordPieceTrainer(vocab_size=420, special_tokens=special, show_progress=False))
    return tok


def described(tok):
    data = json.loads(tok.to_str())
    vocab = sorted(tok.get_vocab(), key=tok.get_vocab().get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"].get("merges", [])]
    ids = [tok.encode(t, add_special_tokens=False).ids for t in TEXTS]
    return dict(json=tok.to_str(), tokens=vocab, merges=merges, ids=ids)


def pieces(leading_space):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([t for t in TEXTS if t] * 20), model_writer=model, vocab_size=480, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=leading_space, character_coverage=0.98,
        minloglevel=2, split_digits=True)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    n = sp.get_piece_size()
    kind = [3 if sp.is_control(i) else 2 if sp.is_unknown(i) else 6 if sp.is_byte(i) else 1 for i in range(n)]
    return dict(tokens=[sp.id_to_piece(i) for i in range(n)], scores=[sp.get_score(i) for i in range(n)], types=kind,
                ids=[sp.encode(t) for t in TEXTS], unknown=sp.unk_id(), bos=sp.bos_id(), eos=sp.eos_id())


cases = {name: described(byte_level(name)) for name in ("gpt-2", "llama3", "qwen2", "smollm")}
cases["wordpiece"] = described(word_piece())
cases["pieces"], cases["pieces-bare"] = pieces(True), pieces(False)
(HERE / "cases.json").write_text(json.dumps(dict(texts=TEXTS, cases=cases), ensure_ascii=False))
