// The Training page: which of its views is shown, by the address after #training/.
import { make } from "./dom.js";
import * as perplexity from "./perplexity_view.js";
import * as price from "./price_view.js";
import { tr } from "./texts.js";
import * as train from "./training_view.js";

/** The views in their order. `address` follows #training/; `view` has an `element`, and `show()` and `hide()`. */
const VIEWS = [
  { address: "", name: tr("tr_train"), view: train },
  { address: "perplexity", name: tr("pp_title"), view: perplexity },
  { address: "price", name: tr("pc_title"), view: price },
];

const hashOf = (address) => (address ? `#training/${address}` : "#training");
const links = new Map(VIEWS.map(({ address, name }) => [address, make("a", { href: hashOf(address) }, name)]));
const tabs = make("nav", { class: "tx-t-tabs", "aria-label": tr("tr_views") }, ...links.values());
const view = make("div", { class: "tx-t-view" });
const element = make("div", { id: "tx-training", class: "tx-s" }, tabs, view);

let shown = null; // the view that is visible, null on other pages

const viewNow = () => {
  const [at, address = ""] = location.hash.slice(1).split("/");
  return at === "training" ? (VIEWS.find((one) => one.address === address) ?? VIEWS[0]) : null;
};

const route = () => {
  const next = viewNow();
  if (next === shown) return;
  shown?.view.hide();
  shown = next;
  if (!next) return;
  for (const [address, link] of links) {
    if (address === next.address) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.replaceChildren(next.view.element);
  next.view.show();
};

const attach = () => {
  const root = document.querySelector("#tx-training-root [data-training]");
  if (root && element.parentElement !== root) root.append(element);
};
new MutationObserver(attach).observe(document.documentElement, { subtree: true, childList: true });
attach();
addEventListener("hashchange", route);
route();
