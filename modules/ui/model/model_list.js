// Draws the list of models from the value: {models, summary, bin, undo, texts, owner}. All names are set as text.
const ROWS = 60; // rows drawn at once; more follow when the end of the list comes into view
const UNDO_MS = 10000;
const MAX_LISTINGS = 8; // while a slow disk is read, the list is asked for again, ever more rarely
const shown = { query: "", rows: ROWS, picked: "", loaded: "", state: "", residents: new Map(), chosen: "", undo: null, binOpen: false };
let undoTimer = 0;
let listings = 0;
let undoSeen = ""; // the deletion that was offered to be undone last

const list = () => props.value ?? { models: [], bin: [], texts: {} };
const text = (key, values = {}) =>
  (list().texts[key] ?? "").replace(/\{(\w+)\}/g, (all, name) => (name in values ? String(values[name]) : all));
const make = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
};
const button = (label, attributes, onClick) => {
  const made = make("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", onClick);
  return made;
};

const copy = async (content) => {
  try {
    await navigator.clipboard.writeText(content);
  } catch {
    // Without https, browsers offer the clipboard only to a selection.
    const area = make("textarea", { "aria-hidden": "true", class: "tx-copy-area" });
    area.value = content;
    element.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(text("copied"));
};
const say = (message) => {
  element.querySelector(".tx-ml-said").textContent = message;
};

// -- the menu of a model ---------------------------------------------------------------------------------------------
let menu = null;
const closeMenu = (focus = false) => {
  if (!menu) return;
  menu.opener.setAttribute("aria-expanded", "false");
  menu.box.remove();
  if (focus) menu.opener.focus();
  menu = null;
};
const openMenu = (opener, model) => {
  const wasOpen = menu?.opener === opener;
  closeMenu();
  if (wasOpen) return;
  const item = (label, action, disabled = false) =>
    button(label, { role: "menuitem", disabled: disabled ? "" : null }, () => (closeMenu(), action()));
  const isLoaded = model.name === shown.loaded;
  const box = make(
    "div",
    { class: "tx-ml-menu", role: "menu", "aria-label": text("more", { name: model.name }) },
    isLoaded || shown.residents.has(model.name)
      ? item(text("unload"), () => unload(model.name), !list().owner)
      : item(text("load"), () => trigger("load_model", { name: model.name }), !list().owner || !!model.problem),
    item(text("settings"), () => {
      pick(model.name);
      document.querySelector("#tx-opts")?.scrollIntoView({ block: "start" });
    }),
    item(text("copy_path"), () => copy(model.folder), !model.folder),
    item(text("delete"), () => trigger("delete_model", { name: model.name }), !list().owner || isLoaded || shown.residents.has(model.name)),
  );
  opener.setAttribute("aria-expanded", "true");
  opener.closest(".tx-ml-row").append(box);
  menu = { box, opener };
  box.querySelector("button:not(:disabled)")?.focus();
};
element.addEventListener("keydown", (event) => {
  if (!menu) return;
  if (event.key === "Escape") {
    event.stopPropagation();
    closeMenu(true);
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const items = [...menu.box.querySelectorAll("button:not(:disabled)")];
  items[(items.indexOf(document.activeElement) + step + items.length) % items.length].focus();
});
document.addEventListener("pointerdown", (event) => {
  if (menu && !event.target.closest(".tx-ml-menu, .tx-ml-more")) closeMenu();
});

// -- rows ------------------------------------------------------------------------------------------------------------
const pick = (name) => {
  shown.picked = name;
  body.dataset.picked = name; // read when the event is sent, which is later than this if another one is pending
  mark();
  trigger("pick", {});
};
const meta = (model) => {
  const verdict = model.verdict ? make("span", { class: "tx-ml-fit", "data-kind": model.verdict }, model.fit) : null;
  const facts = [model.size, model.quantization].filter(Boolean).map((fact) => make("span", {}, fact));
  const problem = model.problem ? make("span", { class: "tx-ml-problem" }, model.problem) : null;
  const note = model.note ? make("span", {}, model.note) : null;
  return make("span", { class: "tx-ml-meta" }, ...facts, problem ?? verdict, note);
};
const row = (model) => {
  const cut = model.name.length > 24 ? model.name.length - 12 : model.name.length; // the quantization is at the end
  const name = make(
    "span",
    { class: "tx-ml-name", title: model.name },
    make("span", { class: "tx-name-head" }, model.name.slice(0, cut)),
    make("span", { class: "tx-name-tail" }, model.name.slice(cut)),
  );
  const main = button("", { class: "tx-ml-main" }, () => pick(model.name));
  main.append(make("span", { class: "tx-dot" }), make("span", { class: "tx-ml-text" }, name, meta(model)));
  const load = button(text("load"), { class: "tx-ml-load" }, () => {
    if (model.name === shown.loaded) return unload(model.name);
    if (isAwaiting(model.name)) return tellHeader({ action: "load", name: model.name });
    shown.picked = model.name;
    mark();
    trigger("load_model", { name: model.name });
  });
  load.disabled = !list().owner || !!model.problem;
  const more = button(
    "⋯",
    { class: "tx-ml-more", "aria-haspopup": "menu", "aria-expanded": "false", "aria-label": text("more", { name: model.name }) },
    () => openMenu(more, model),
  );
  return make("li", { class: "tx-ml-row", "data-name": model.name }, main, load, more);
};
const tellHeader = (detail) => document.dispatchEvent(new CustomEvent("tx-model", { detail })); // see static/model_menu.js
/** Whether another model than the page's can be used at once, or by waking it. */
const isAwaiting = (name) => name !== shown.chosen && ["ready", "answering", "unreachable", "asleep"].includes(shown.residents.get(name));
const unload = (name) => (name === shown.loaded ? trigger("unload_model", {}) : document.dispatchEvent(new CustomEvent("tx-resident-unload", { detail: { name } })));

const mark = () => {
  for (const each of element.querySelectorAll(".tx-ml-row")) {
    const { name } = each.dataset;
    const isLoaded = name === shown.loaded;
    const resident = (shown.residents.get(name) ?? "").replace("answering", "ready");
    const isPages = name === shown.loaded || name === shown.loading;
    each.dataset.state = isPages && resident !== "unreachable" ? shown.state : resident;
    each.querySelector(".tx-ml-main").setAttribute("aria-current", String(name === shown.picked));
    const load = each.querySelector(".tx-ml-load");
    load.textContent = text(isLoaded ? "unload" : isAwaiting(name) ? "use" : "load");
    load.setAttribute("aria-label", `${load.textContent} ${name}`);
    const state = shown.residents.get(name);
    const label = isLoaded || ["ready", "answering", "unreachable"].includes(state) ? text("is_loaded") : state === "asleep" ? text("is_asleep") : "";
    const dot = each.querySelector(".tx-dot");
    dot.title = label;
    if (label) dot.setAttribute("role", "img");
    else dot.removeAttribute("role");
    dot.setAttribute("aria-label", label);
  }
};
const matching = () => {
  const words = shown.query.toLowerCase().split(/\s+/).filter(Boolean);
  return list().models.filter((model) => words.every((word) => `${model.name} ${model.quantization}`.toLowerCase().includes(word)));
};
const drawRows = () => {
  closeMenu();
  const found = matching();
  const rows = element.querySelector(".tx-ml-rows");
  rows.replaceChildren(...found.slice(0, shown.rows).map(row));
  element.querySelector(".tx-ml-none").hidden = found.length > 0 || !list().models.length;
  mark();
};
const drawMore = () => {
  const rows = element.querySelector(".tx-ml-rows");
  // The observer reports what was in view some time ago, such as an empty list.
  if (end.getBoundingClientRect().top > element.querySelector(".tx-ml-scroll").getBoundingClientRect().bottom + 1) return;
  const found = matching();
  if (rows.children.length >= found.length) return;
  shown.rows = rows.children.length + ROWS;
  rows.append(...found.slice(rows.children.length, shown.rows).map(row));
  mark();
};

// -- the bin ---------------------------------------------------------------------------------------------------------
const drawBin = () => {
  const { bin, owner, undo } = list();
  const box = element.querySelector(".tx-ml-bin");
  box.hidden = !bin.length || !owner;
  const items = bin.map((entry) =>
    make(
      "li",
      {},
      make("span", { class: "tx-ml-name", title: entry.name }, entry.name),
      make("span", {}, entry.size),
      make("time", {}, new Date(entry.deleted * 1000).toLocaleDateString(document.documentElement.lang)),
      button(text("restore"), { "aria-label": `${text("restore")} ${entry.name}` }, () => trigger("restore_model", { id: entry.id })),
    ),
  );
  const details = make("details", {}, make("summary", {}, list().bin_summary), make("ul", {}, ...items));
  details.open = shown.binOpen;
  details.addEventListener("toggle", () => (shown.binOpen = details.open));
  details.append(make("p", {}, text("bin_info")), button(text("empty_bin"), { class: "tx-ml-empty" }, () => trigger("empty_bin", {})));
  box.replaceChildren(details);
  if (undo && undo.id !== undoSeen && bin.some((entry) => entry.id === undo.id)) offerUndo(undo);
  else if (!bin.some((entry) => entry.id === undoSeen)) hideUndo(); // a list that is only read again keeps the offer
};
const hideUndo = () => {
  clearTimeout(undoTimer);
  element.querySelector(".tx-ml-undo").replaceChildren();
};
const offerUndo = (undo) => {
  undoSeen = undo.id;
  const restore = () => (hideUndo(), trigger("restore_model", { id: undo.id }));
  element.querySelector(".tx-ml-undo").replaceChildren(make("span", {}, undo.text), button(text("undo"), {}, restore));
  clearTimeout(undoTimer);
  undoTimer = setTimeout(hideUndo, UNDO_MS);
};

// -- the whole list --------------------------------------------------------------------------------------------------
const search = make("input", { type: "search", class: "tx-ml-search" });
search.addEventListener("input", () => {
  shown.query = search.value;
  shown.rows = ROWS;
  drawRows();
});
const body = element.querySelector(".tx-ml");
const end = make("div", { class: "tx-ml-end", "aria-hidden": "true" });
body.append(
  make("div", { class: "tx-ml-top" }, search, make("span", { class: "tx-ml-summary" })),
  make("div", { class: "tx-ml-scroll" }, make("ul", { class: "tx-ml-rows" }), make("p", { class: "tx-ml-none", hidden: "" }), end),
  make("div", { class: "tx-ml-undo", role: "status" }),
  make("div", { class: "tx-ml-bin", hidden: "" }),
  make("span", { class: "tx-ml-said", role: "status" }),
);
new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && drawMore()).observe(end);

const draw = () => {
  search.placeholder = text("search");
  search.setAttribute("aria-label", text("search"));
  element.querySelector(".tx-ml-none").textContent = text("none_found");
  element.querySelector(".tx-ml-summary").textContent = list().summary ?? "";
  element.querySelector(".tx-ml-rows").setAttribute("aria-label", text("label"));
  body.hidden = !list().models.length && !list().bin.length;
  body.classList.toggle("tx-ml-blank", !list().models.length);
  drawRows();
  drawBin();
};
const readState = () => {
  const picked = document.querySelector("#tx-facts [data-model]");
  const used = document.querySelector("#tx-model-used [data-state]");
  if (picked) shown.picked = picked.dataset.model;
  shown.state = used?.dataset.state ?? "";
  shown.loaded = shown.state === "ready" ? used.dataset.used : "";
  shown.loading = shown.state === "loading" ? used.dataset.used : "";
  mark();
};
document.addEventListener("tx-model-state", readState);
document.addEventListener("tx-residents", ({ detail }) => {
  shown.residents = new Map(detail.filter(({ state }) => state !== "failed").map(({ name, state }) => [name, state]));
  shown.chosen = detail.find(({ chosen }) => chosen)?.name ?? "";
  mark();
});
const listAgain = () => {
  element.querySelector(".tx-ml-summary").textContent = list().scanning ? text("scanning") : list().summary ?? "";
  if (!list().scanning) listings = 0;
  else if (listings < MAX_LISTINGS) setTimeout(() => trigger("refresh_list", {}), 1000 * 2 ** listings++);
};
watch("value", () => {
  draw();
  listAgain();
  readState();
});
draw();
listAgain();
readState();
