"use strict";
// What the pages of one file and the page of `serve` share.

// --- Text: the rules of `printable` in text.rs.
const SIGNS = { " ": "·", "\n": "↵", "\t": "⇥", "\x7f": "␡" };
const HIDDEN = /[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}·↵⇥␀-␡\u2800\u{1f3fb}-\u{1f3ff}]/u;
function pieces(text) {
  const out = [];
  const chars = [...text];
  // Marks on the letter so far; -1 where there is no letter to carry one.
  let marks = -1;
  chars.forEach((c, i) => {
    const lone = c === " " && i > 0 && i < chars.length - 1 && chars[i - 1] !== " " && chars[i + 1] !== " ";
    const mark = /[\p{Mn}\p{Me}]/u.test(c);
    const sign = !lone && (HIDDEN.test(c) || (mark && marks >= 4));
    const code = c.codePointAt(0);
    let shown = c;
    if (sign) shown = SIGNS[c] ?? (code < 32 ? String.fromCodePoint(0x2400 + code) : `\\u{${code.toString(16)}}`);
    else if (mark && marks < 0) shown = "◌" + c;
    if (!mark) marks = sign ? -1 : 0;
    else if (!sign) marks = Math.max(0, marks) + 1;
    const last = out[out.length - 1];
    if (last && last[1] === sign) last[0] += shown;
    else out.push([shown, sign]);
  });
  return out;
}
const printable = (text) => pieces(text).map(([shown]) => shown).join("");
const percent = (p) => {
  const x = p * 100;
  if (Number.isNaN(x)) return "NaN";
  return x <= 0 ? "0%" : x < 0.01 ? "<0.01%" : x < 10 ? x.toFixed(2) + "%" : x.toFixed(1) + "%";
};

// --- Colours.
/** The colour at 0 to 1 of a list of them; outside that range the nearest end. */
function blend(channels, position) {
  const at = Math.min(1, Math.max(0, position)) * (channels.length - 1);
  const low = Math.min(channels.length - 2, Math.floor(at));
  return channels[low].map((c, i) => Math.round(c + (channels[low + 1][i] - c) * (at - low)));
}
function ink(rgb) {
  const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}
const css = (rgb) => `rgb(${rgb.join(",")})`;
