// The picture of a character, or its first letter on a color that depends on its name.
import { make } from "./dom.js";

/** Return the hue of the color for a name. */
export const hueOf = (text) => [...text].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);

export const firstLetter = (name) => {
  const [letter = "?"] = name.trim();
  return letter.toUpperCase();
};

/** Return the address of a character's picture; `picture` is its version, so that browsers may keep it. */
export const pictureOf = (id, picture) => `/characters/${encodeURIComponent(id)}/picture?v=${encodeURIComponent(picture)}`;

/** Return an element with the picture of a character, which screen readers skip: its name stands beside it. */
export function avatar({ id, name, picture }, source = picture ? pictureOf(id, picture) : "") {
  const frame = make("span", { class: "tx-avatar", "aria-hidden": "true" });
  frame.style.setProperty("--tx-hue", hueOf(name));
  const letter = make("span", {}, firstLetter(name));
  if (!source) {
    frame.append(letter);
    return frame;
  }
  const image = make("img", { src: source, alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(letter)); // deleted meanwhile, or damaged
  frame.append(image);
  return frame;
}
