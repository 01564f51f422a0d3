// Writes 20,000 features as `easyroutine features` does: node features.mjs > features.jsonl
const N = 20000;
const words = ["the", "capital", "of", "France", "is", "Paris", "<b>bold</b>", "dog"];
const token = (i) => ` ${words[i % words.length]}`;

function feature(n) {
  const count = n % 100 === 0 ? 0 : N - n;
  const max = 1 + (n % 977) / 10;
  const tokens = [0, 1, 2, 3].map((i) => token(n + i));
  const kept = { value: max, prompt: n, position: 7, start: 5, tokens, ids: [0, 1, 2, 3], values: [0, max / 2, max, 0] };
  return {
    schema: "easyroutine.feature/1",
    feature: n,
    count,
    frequency: count / (4 * N),
    mean: max / 2,
    mean_over_all: (max * count) / (8 * N),
    max,
    quantiles: [[0.5, max / 2]],
    histogram: count === 0 ? [] : [[0.5, 0.5625, 3], [1, 1.125, 9]],
    top_logits: [{ id: 1, token: n === 12345 ? " unmistakable" : token(n), value: 2.5 }],
    bottom_logits: [{ id: 2, token: token(n + 3), value: -1.5 }],
    top: count === 0 ? [] : [kept],
    drawn: count === 0 ? [] : [kept],
  };
}

for (let n = 0; n < N; n += 1) process.stdout.write(`${JSON.stringify(feature(n))}\n`);
