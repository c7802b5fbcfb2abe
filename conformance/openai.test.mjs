// The official OpenAI package for JavaScript.
import assert from 'node:assert/strict';
import test from 'node:test';
import OpenAI from 'openai';
import { network } from './network.mjs';

const ai = new OpenAI({ baseURL: `${network.proxy_url.replace(/\/$/, '')}/v1`, apiKey: 'unused', maxRetries: 0 });
const { data: [{ id: model }] } = await ai.models.list();
const ask = { model, messages: [{ role: 'user', content: 'Hi' }], temperature: 0, seed: 1, max_tokens: 30 };

test('plain and streamed answers are equal', async () => {
  const { data, response } = await ai.chat.completions.create(ask).withResponse();
  assert.match(response.headers.get('og-receipt-id'), /^0x[0-9a-f]{64}$/);
  assert.ok(data.usage.completion_tokens > 0);
  let text = '';
  for await (const chunk of await ai.chat.completions.create({ ...ask, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? '';
  }
  assert.equal(text, data.choices[0].message.content);
});

test('a stream can be left', async () => {
  const stream = await ai.chat.completions.create({ ...ask, stream: true, max_tokens: 300, temperature: 1.5 });
  for await (const chunk of stream) {
    if (chunk.choices.length > 0) break;
  }
  assert.ok((await ai.chat.completions.create(ask)).choices[0].message.content);
});

test('errors are typed', async () => {
  await assert.rejects(ai.chat.completions.create({ ...ask, model: 'no-such-model' }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, 'model_not_found');
    return true;
  });
  await assert.rejects(ai.chat.completions.create({ ...ask, temperature: 9 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, 'temperature');
    return true;
  });
});
