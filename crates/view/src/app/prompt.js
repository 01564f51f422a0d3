// The tokens of the prompt and what the model predicts after them: known to every view.
import { state } from "./state.js";

export const prompt = {
  /** `{position, id, text}` of each. */
  tokens: [],
  /** The likeliest next tokens of the unchanged run. */
  top: [],
  /** The model's numbers of layers and heads. */
  model: null,
  /** Files of features that the server was started with: `{key, path}` of each. */
  features: [],
  /** The chosen position; the last where none is. */
  position: () => Math.min(state.position ?? Infinity, Math.max(0, prompt.tokens.length - 1)),
  /** The chosen layer; the last where none is. */
  layer: () => Math.min(state.layer ?? Infinity, (prompt.model?.n_layers ?? 1) - 1),
  head: () => Math.min(state.head ?? 0, (prompt.model?.n_heads ?? 1) - 1),
  /** The token that is asked about: the one that was named, or what the unchanged run predicts. */
  answer: () => state.answer || (prompt.top.length > 0 ? `id:${prompt.top[0].id}` : ""),
};
