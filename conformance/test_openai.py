"""The official OpenAI client against the proxy: what a person who changes `base_url` sees."""

import concurrent.futures
import re
import time

import pytest

HI = [{"role": "user", "content": "Hi"}]
PROMPTS = [
    "Hi", "Can I get a large latte with oat milk?", "Do you have any chai?", "I'd like to see a movie tonight.",
    "What kinds of milk do you have?", "Two tickets for the 7:30 show", "Something funny please", "Thanks!",
]  # fmt: skip


def ask(ai, model, content="Hi", **more):
    options = {"temperature": 0, "seed": 1, "max_tokens": 40, **more}
    return ai.chat.completions.create(model=model, messages=[{"role": "user", "content": content}], **options)


def text(completion):
    return completion.choices[0].message.content


def streamed(ai, model, content="Hi", **more):
    """Text, finish reasons and usages of a stream."""
    chunks = list(ask(ai, model, content, stream=True, **more))
    deltas = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    finishes = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert len({c.id for c in chunks}) == 1 and len({c.created for c in chunks}) == 1
    return "".join(deltas), finishes, [c.usage for c in chunks if c.usage]


def test_models(ai, model):
    listed = ai.models.list().data
    assert listed and all(m.object == "model" and m.id and m.owned_by is not None for m in listed)
    assert ai.models.retrieve(model).id == model


def test_plain_answer(ai, model):
    answer = ask(ai, model)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model
    assert abs(answer.created - time.time()) < 300
    assert answer.system_fingerprint
    choice = answer.choices[0]
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.message.content.strip() and choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 40
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("prompt", PROMPTS[:3])
def test_stream_is_the_plain_answer(ai, model, prompt):
    plain = ask(ai, model, prompt)
    streamed_text, finishes, usages = streamed(ai, model, prompt, stream_options={"include_usage": True})
    assert streamed_text == text(plain)
    assert finishes == [plain.choices[0].finish_reason]
    assert [u.model_dump() for u in usages] == [plain.usage.model_dump()]


def test_stream_without_usage(ai, model):
    assert streamed(ai, model)[2] == []


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_stream_is_the_plain_answer_when_tokens_are_wild(ai, model, seed):
    """At a high temperature the model emits pieces of characters; they must be joined in the same way."""
    options = {"temperature": 2, "seed": seed, "max_tokens": 60}
    assert streamed(ai, model, "☕ 你好", **options)[0] == text(ask(ai, model, "☕ 你好", **options))


def test_a_seed_gives_the_same_answer_again(ai, model):
    options = {"temperature": 0.8, "max_tokens": 60}
    first = text(ask(ai, model, PROMPTS[4], seed=7, **options))
    assert text(ask(ai, model, PROMPTS[4], seed=7, **options)) == first
    others = {text(ask(ai, model, PROMPTS[4], seed=seed, **options)) for seed in range(100, 106)}
    assert len(others) > 1, "six seeds gave one answer at temperature 0.8"


def test_temperature_zero_does_not_depend_on_the_seed(ai, model):
    assert text(ask(ai, model, seed=1)) == text(ask(ai, model, seed=2))


def test_headers_name_the_receipt(ai, model):
    seen = set()
    for stream in (False, True):
        raw = ai.chat.completions.with_raw_response.create(model=model, messages=HI, max_tokens=5, stream=stream)
        assert re.fullmatch(r"0x[0-9a-f]{64}", raw.headers["og-receipt-id"])
        assert raw.headers["og-assurance"] == "signed"
        assert re.fullmatch(r"0x[0-9a-fA-F]{40}", raw.headers["og-node"])
        assert re.fullmatch(r"0x[0-9a-f]{64}", raw.headers["og-model"])
        seen.add(raw.headers["og-receipt-id"])
        if stream:
            list(raw.parse())
    assert len(seen) == 2


def test_the_asked_rung_is_accepted_when_it_can_be_given(ai, model):
    raw = ai.chat.completions.with_raw_response.create(
        model=model, messages=HI, max_tokens=5, extra_headers={"og-assurance": "signed"}
    )
    assert raw.headers["og-assurance"] == "signed"


def test_max_tokens(ai, model):
    long = ask(ai, model, PROMPTS[1], max_tokens=50).usage.completion_tokens
    for name in ("max_tokens", "max_completion_tokens"):
        options = {"max_tokens": None, name: 3} if name != "max_tokens" else {"max_tokens": 3}
        options = {k: v for k, v in options.items() if v is not None}
        answer = ai.chat.completions.create(
            model=model, messages=[{"role": "user", "content": PROMPTS[1]}], temperature=0, **options
        )
        assert answer.usage.completion_tokens == 3 < long
        assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_stop(ai, model, stream):
    whole = text(ask(ai, model))
    word = whole.split()[3]
    cut = whole[: whole.index(word)]
    for stop in (word, ["never said by it", word]):
        if stream:
            got, finishes, _ = streamed(ai, model, stop=stop)
        else:
            answer = ask(ai, model, stop=stop)
            got, finishes = text(answer), [answer.choices[0].finish_reason]
        assert (got, finishes) == (cut, ["stop"])


def test_system_message_and_history(ai, model):
    system = {"role": "system", "content": "You are a movie ticket assistant."}
    messages = [system, {"role": "user", "content": "Hello"}]
    short = ai.chat.completions.create(model=model, messages=messages[1:], temperature=0, max_tokens=30)
    long = ai.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=30)
    assert long.usage.prompt_tokens > short.usage.prompt_tokens and text(long).strip()
    messages += [{"role": "assistant", "content": text(long)}, {"role": "user", "content": "What is on?"}]
    longer = ai.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=30)
    assert longer.usage.prompt_tokens > long.usage.prompt_tokens


def test_content_parts_are_joined(ai, model):
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    answer = ai.chat.completions.create(model=model, messages=parts, temperature=0, seed=1, max_tokens=40)
    assert text(answer) == text(ask(ai, model))


def test_harmless_options_are_accepted(ai, model):
    ask(ai, model, n=1, user="someone", top_p=0.9, presence_penalty=0.5, frequency_penalty=-0.5, logprobs=False)
    ask(ai, model, response_format={"type": "text"}, extra_body={"unknown_option": {"a": 1}, "top_k": 5, "min_p": 0.1})


def test_answers_do_not_depend_on_company(ai, model):
    """Eight at the same time, plain and streamed, equal each alone: batching must not change a bit."""
    alone = [text(ask(ai, model, p)) for p in PROMPTS]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        plain = list(pool.map(lambda p: text(ask(ai, model, p)), PROMPTS))
        streams = list(pool.map(lambda p: streamed(ai, model, p)[0], PROMPTS))
    assert plain == alone
    assert streams == alone


def test_a_client_that_leaves_disturbs_nobody(ai, http, model):
    before = text(ask(ai, model))
    body = {"model": model, "messages": HI, "stream": True, "max_tokens": 400, "temperature": 1.5, "seed": 5}
    for _ in range(12):
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            next(answer.iter_bytes())
    start = time.monotonic()
    assert text(ask(ai, model)) == before
    assert time.monotonic() - start < 60
    assert http.get("/health").status_code == 200
