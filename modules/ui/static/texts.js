// The texts of the page in its language: those whose keys the server has found as literals in the scripts.
const texts = JSON.parse(document.querySelector("#tx-texts").textContent);

export const language = document.documentElement.lang.startsWith("zh") ? "zh" : "en";

// Returns the text of a key, with {name} replaced by values.name.
export const tr = (key, values = {}) => {
  if (!(key in texts)) throw new Error(`no text for the key ${key}`);
  return texts[key].replace(/\{(\w+)\}/g, (all, name) => (name in values ? String(values[name]) : all));
};
