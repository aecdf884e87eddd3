// Whether long lines of code are wrapped, in all conversations and texts; this browser keeps it.
const KEY = "tx-wrap-code";

const apply = () => document.documentElement.toggleAttribute("data-wrap-code", localStorage.getItem(KEY) !== null);
apply();

/** Wrap the lines of code, or no longer, if `target` is in a button for that. */
export function toggleWrapping(target) {
  if (!target.closest(".tx-wrap-code")) return;
  if (localStorage.getItem(KEY) === null) localStorage.setItem(KEY, "");
  else localStorage.removeItem(KEY);
  apply();
}
