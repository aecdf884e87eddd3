// Train a LoRA: the form, the panel of the run that is going on, and all runs. A run is the server's: it goes on without
// this page, and all pages show the same.
import { get, post, reach, upload } from "./chat_client.js";
import { make } from "./dom.js";
import { polling } from "./polling.js";
import { toast } from "./popups.js";
import { tr } from "./texts.js";
import * as compare from "./training_compare.js";
import * as exporting from "./training_export.js";
import * as form from "./training_form.js";
import * as list from "./training_list.js";
import * as preview from "./training_preview.js";
import * as panel from "./training_run.js";

const FACTS_DELAY = 500;

let built = null;
let factsTimer = 0;
let factsAsked = 0;
let refused = null; // why the last start was refused, {error, field}, until the form changes

// -- tools ----------------------------------------------------------------------------------------------------------------

const copyMenu = make("select", { id: "tx-t-copy", class: "tx-field", "aria-label": tr("tr_copy_from") });
const parameterFile = make("input", { type: "file", accept: ".json,application/json", hidden: true });
const dataFile = make("input", { type: "file", accept: ".json,.jsonl,.ndjson,.csv,.tsv,.txt", hidden: true });
const button = (label, click, attributes = {}) => make("button", { type: "button", class: "tx-button", click, ...attributes }, label);

const saveFile = () => {
  const text = JSON.stringify(form.values(), null, 2);
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: "training_parameters.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

const fillFrom = async (asked) => {
  try {
    const { values, notes = [] } = await asked;
    const { lora_name: ignored, ...rest } = values; // the new LoRA has a name of its own
    form.fill(rest);
    toast([tr("tr_filled"), ...notes].join(" "));
  } catch (error) {
    toast(error.message);
  }
};

copyMenu.addEventListener("change", () => {
  if (copyMenu.value) fillFrom(get(`/training/parameters?lora=${encodeURIComponent(copyMenu.value)}`));
  copyMenu.value = "";
});
parameterFile.addEventListener("change", async () => {
  const [file] = parameterFile.files;
  parameterFile.value = "";
  if (file) fillFrom(post("/training/parameters", { content: (await file.text()).slice(0, 300_000) }));
});
dataFile.addEventListener("change", async () => {
  const [file] = dataFile.files;
  dataFile.value = "";
  if (!file) return;
  uploadButton.setAttribute("aria-busy", "true"); // not disabled, which would lose the focus
  uploadButton.textContent = tr("uploading");
  try {
    const { name, lists: found } = await upload("/training/upload", file);
    setLists(found);
    form.chooseData(name);
  } catch (error) {
    toast(error.message);
  }
  uploadButton.textContent = tr("tr_upload");
  uploadButton.removeAttribute("aria-busy");
});

const uploadButton = button(tr("tr_upload"), () => uploadButton.hasAttribute("aria-busy") || dataFile.click(), { id: "tx-t-upload" });
const tools = make("div", { class: "tx-s-buttons" }, uploadButton, button(tr("tr_preview"), () => preview.show(form.values()), { id: "tx-t-preview" }), dataFile);
const bar = make(
  "div",
  { class: "tx-t-bar-top" },
  copyMenu,
  button(tr("tr_load_file"), () => parameterFile.click()),
  button(tr("tr_save_file"), saveFile),
  button(tr("tr_reset"), () => form.reset()),
  parameterFile,
);
const left = make("div", { class: "tx-t-left" }, bar, form.element);
export const element = make("div", { class: "tx-t-train" }, make("div", { class: "tx-t-columns" }, left, panel.element), list.element);

let lists = { gguf: [] };

const setLists = (found) => {
  lists = found;
  form.setLists(lists);
  copyMenu.replaceChildren(make("option", { value: "" }, tr("tr_copy_from")), ...lists.loras.map((name) => make("option", { value: name }, name)));
  copyMenu.disabled = lists.loras.length === 0;
};

// -- facts ----------------------------------------------------------------------------------------------------------------

const askFacts = () => {
  refused = null;
  panel.showProblem("");
  clearTimeout(factsTimer);
  factsTimer = setTimeout(loadFacts, FACTS_DELAY);
};

/** Return what the server answers to a form: an error with its field is an answer too. */
async function answerTo(path, body) {
  const response = await reach(`${path}?lang=${document.documentElement.lang.startsWith("zh") ? "zh" : "en"}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (response.status === 401) location.reload();
  return response.json();
}

async function loadFacts() {
  const mine = ++factsAsked;
  const values = form.values();
  const found = await answerTo("/training/facts", { values }).catch((error) => ({ error: error.message, field: "" }));
  if (mine !== factsAsked) return;
  panel.showResidents(found.residents ?? [], askFacts);
  if (!found.error) {
    form.showError(refused?.field ?? "", refused?.error ?? "");
    panel.showFacts(found, form.fill);
    return;
  }
  const missing = ["model", "lora_name", "dataset", "raw_text_file"].includes(found.field) && !values[found.field];
  if (missing) panel.showMissing(tr("tr_first_choose"));
  else if (found.field) panel.showWrong(tr("tr_see_field", { field: form.labelOf(found.field) }), () => form.focusOn(found.field));
  else panel.showMissing(found.error);
  form.showError(missing ? "" : found.field, missing ? "" : found.error);
}

panel.onStart(async () => {
  panel.setBusy(true);
  const started = await answerTo("/training/start", { values: form.values(), continues: form.continued() }).catch((error) => ({ error: error.message, field: "" }));
  panel.setBusy(false);
  if (started.error) {
    refused = started;
    panel.showProblem(started.error);
    form.showError(started.field, started.error);
    form.focusOn(started.field);
    return;
  }
  panel.showProblem("");
  panel.choose(started.name);
  await runs.now();
});

// -- runs -----------------------------------------------------------------------------------------------------------------

const actions = {
  show(run) {
    panel.choose(run.name);
    runs.now();
    panel.element.querySelector(".tx-t-live").scrollIntoView({ block: "start", behavior: "smooth" });
  },
  copy: (run) => fillFrom(get(`/training/runs/parameters?name=${encodeURIComponent(run.name)}`)),
  async remove(run) {
    await panel.act("delete", run.name);
    if (panel.chosen() === run.name) panel.choose("");
  },
  async apply(run) {
    if (await panel.act("apply", run.name)) location.hash = "#chat";
  },
  compare: (run) => compare.open(run),
  async continue(run) {
    await fillFrom(get(`/training/runs/parameters?name=${encodeURIComponent(run.name)}`));
    form.continueFrom(run.adapter);
    form.focusOn("lora_name");
  },
  exports: (run) => exporting.items(run, () => lists.gguf),
};

const runs = polling(async function refresh() {
  const before = panel.chosen();
  const body = await panel.fetchRuns();
  if (before === panel.chosen() && !body.runs.some(({ name }) => name === before)) panel.choose(""); // deleted on another page
  const going = body.runs.find(({ state }) => state === "running") ?? body.runs.find(({ state }) => state === "queued");
  if (going && !panel.chosen()) {
    panel.choose(going.name);
    return refresh();
  }
  panel.showLive(body.runs.find(({ name }) => name === panel.chosen()), body);
  list.show(body.runs, actions);
  list.showMerge(body.merge);
  if (body.runs.some(({ name, adapter }) => adapter && !adapters.has(name))) refreshLists(body.runs);
  return Boolean(going) || body.merge?.state === "running";
});

const adapters = new Set(); // of the runs whose LoRAs the menus have

async function refreshLists(runs) {
  for (const { name, adapter } of runs) if (adapter) adapters.add(name);
  setLists(await get("/training/lists"));
}

async function build() {
  built ??= get("/training/form");
  try {
    const described = await built;
    if (element.dataset.built) setLists(await get("/training/lists"));
    else {
      element.dataset.built = "true";
      form.build(described, make("div", {}, tools, preview.element), askFacts);
      setLists(described.lists);
    }
    panel.setBusy(false);
    askFacts();
  } catch (error) {
    built = null;
    panel.showMissing(error.message);
    panel.setBusy(true);
  }
}

document.addEventListener("tx-training-changed", runs.now);

/** Begin to follow the runs. */
export function show() {
  build();
  runs.begin();
}

/** Stop following them. */
export const hide = runs.end;
