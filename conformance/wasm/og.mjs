// Loads the module and talks to it. Runs in Node and in browsers.

/** Compiles the module in `bytes`; gives a function from a request to an answer (see src/lib.rs). */
export async function load(bytes) {
  const { instance } = await WebAssembly.instantiate(bytes, {});
  const { memory, input, run, output } = instance.exports;
  return (request) => {
    const text = new TextEncoder().encode(JSON.stringify(request));
    const at = input(text.length);
    if (at === 0) throw new Error('the request is too long');
    // The memory may have grown, so the view is made anew each time.
    new Uint8Array(memory.buffer, at, text.length).set(text);
    const length = run();
    return JSON.parse(new TextDecoder().decode(new Uint8Array(memory.buffer, output(), length)));
  };
}
