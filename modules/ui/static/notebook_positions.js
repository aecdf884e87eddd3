// Positions in a text: the server counts characters, the browser UTF-16 units.

const ASTRAL = /[\ud800-\udbff]/;
export const toPoints = (text, units) => (ASTRAL.test(text) ? [...text.slice(0, units)].length : units);
export const toUnits = (text, points) => (ASTRAL.test(text) ? [...text].slice(0, points).join("").length : points);

/** Return how many UTF-16 units both begin with. */
export function commonPrefix(one, other) {
  const end = Math.min(one.length, other.length);
  let at = 0;
  while (at < end && one.charCodeAt(at) === other.charCodeAt(at)) at += 1;
  return at;
}

/** Return the tokens before a change of `text` at `units`, as the server will keep them. */
export function cut(all, text, units) {
  const at = toPoints(text, units);
  return all.flatMap(({ start, tokens, fills }) => {
    if (fills || start >= at) return [];
    let end = start;
    const kept = tokens.filter(([piece]) => (end += [...piece].length) <= at);
    return kept.length ? [{ start, tokens: kept, fills }] : [];
  });
}
