"""Everything a client can get wrong. Each mistake has a status, and a body in OpenAI's shape."""

import json

import openai
import pytest

HI = [{"role": "user", "content": "Hi"}]


def check(response, status, code=None, param=None):
    """Asserts status and shape; `param` may name a part of the given one."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and error["message"].strip()
    assert error["type"] in ("invalid_request_error", "server_error", "rate_limit_error")
    if code:
        assert error["code"] == code, error
    if param:
        assert (error["param"] or "").startswith(param), error
    return error


def post(http, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json", **headers})


def test_unknown_model(ai):
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as caught:
            ai.chat.completions.create(model="no-such-model", messages=HI, stream=stream)
        assert caught.value.code == "model_not_found" and "no-such-model" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        ai.models.retrieve("no-such-model")


def test_a_prompt_that_is_too_long(ai, model):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            messages = [{"role": "user", "content": "coffee, please. " * 20_000}]
            ai.chat.completions.create(model=model, messages=messages, stream=stream)
        assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"not json", b'{"model": "x",}', b'{"model": NaN}', b'"text"', b"[1]", b"null", b"\xff\xfe{}", b"[" * 100_000,
     b'{"messages":' * 5000, b'{"model": "\xc3\x28", "messages": []}', b"{}{}"],
    ids=lambda raw: repr(raw[:20]),
)  # fmt: skip
def test_malformed_json(http, raw):
    check(post(http, raw), 400)


def test_malformed_json_has_its_own_code(http):
    check(post(http, b'{"model": "x", "messages": [}'), 400, "invalid_json")


def test_too_large_a_body(http, model):
    body = {"model": model, "messages": [{"role": "user", "content": "x" * (3 << 19)}]}
    check(post(http, body), 413, "request_too_large")
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"messages": None}, "messages"), ({"messages": "Hi"}, "messages"), ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"), ({"messages": [{"role": "pirate", "content": "Hi"}]}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages"), ({"messages": [7]}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages"), ({"messages": HI * 2000}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"model": 7}, "model"), ({"model": None}, "model"),
        ({"temperature": "hot"}, "temperature"), ({"temperature": 2.1}, "temperature"), ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"), ({"top_p": 1.5}, "top_p"), ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"), ({"seed": "x"}, "seed"), ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1 << 70}, "max_tokens"), ({"stop": 7}, "stop"), ({"stop": ["a"] * 5}, "stop"),
        ({"stream": "yes"}, "stream"), ({"n": 9}, "n"), ({"logprobs": "yes"}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"x": 5}}, "logit_bias"), ({"logit_bias": [1]}, "logit_bias"),
        ({"tools": [{"type": "function", "function": {"name": "f f"}}]}, "tools"), ({"tools": {}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"), ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"response_format": {"type": "xml"}}, "response_format"), ({"input": "Hi"}, "input"), ({"audio": {}}, "audio"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)  # fmt: skip
def test_wrong_values_name_the_parameter(http, model, changed, param):
    body = {"model": model, "messages": HI, "max_tokens": 3, **changed}
    check(post(http, body), 400, param=param)


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_missing_parameters(http, model, missing):
    body = {"model": model, "messages": HI}
    del body[missing]
    check(post(http, body), 400, "missing_required_parameter", missing)


@pytest.mark.parametrize("rung", ["attested", "replicated", "audited", "proved", "certainly"])
def test_a_rung_that_cannot_be_given_is_an_error(http, model, rung):
    """No silent downgrade to a weaker rung."""
    body = {"model": model, "messages": HI, "max_tokens": 3}
    response = post(http, body, **{"og-assurance": rung})
    if response.status_code == 200:
        assert response.headers["og-assurance"] == rung
    else:
        check(response, 400, "assurance_unavailable" if rung != "certainly" else None)


def test_wrong_methods_and_paths(http):
    check(http.get("/v1/chat/completions"), 405, "method_not_allowed")
    check(http.delete("/v1/models"), 405, "method_not_allowed")
    check(http.get("/v1/nothing/here"), 404, "not_found")
    check(http.get("/v1/embeddings"), 405, "method_not_allowed")


def test_unknown_receipts(http):
    check(http.get(f"/og/v1/receipts/0x{'00' * 32}"), 404)
    check(http.get(f"/og/v1/receipts/0x{'00' * 32}/proof"), 404)
    assert http.get("/og/v1/receipts/nonsense").status_code in (400, 404)


def test_only_json_is_read(http, model):
    """A form of another site's page needs no preflight request; JSON does."""
    body = json.dumps({"model": model, "messages": HI, "max_tokens": 3})
    for kind in ("application/json", "application/json; charset=utf-8"):
        response = http.post("/v1/chat/completions", content=body, headers={"content-type": kind})
        assert response.status_code == 200, response.text
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        check(http.post("/v1/chat/completions", content=body, headers={"content-type": kind}), 415)


def test_after_all_this_it_still_works(ai, http, model):
    answer = ai.chat.completions.create(model=model, messages=HI, max_tokens=5)
    assert answer.choices[0].message.content
    metrics = http.get("/metrics")
    assert metrics.status_code == 200 and "# TYPE" in metrics.text
