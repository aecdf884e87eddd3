// The panel beside the form: what a run would be, and the run that is going on.
import { get, post } from "./chat_client.js";
import { isDoubled, make, rendered } from "./dom.js";
import { announce, toast } from "./popups.js";
import { tr } from "./texts.js";

export const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 1)} GB`;
export const number = (value, digits = 4) => (value === null || value === undefined ? "—" : Number(value).toPrecision(digits).replace(/\.?0+$/, ""));

/** Return a time in the largest two units: "1 h 5 min", "3 min 20 s", "8 s". */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return tr("tr_hours", { hours, minutes });
  return minutes ? tr("tr_minutes", { minutes, seconds: whole % 60 }) : tr("tr_seconds", { seconds: whole });
}

const list = (pairs) => make("dl", { class: "tx-s-facts" }, ...pairs.filter(Boolean).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));

/** Return a button that asks by another text, and acts when it is pressed again. */
export function sureButton(label, sure, action, attributes = {}) {
  const button = make("button", { type: "button", class: "tx-button", ...attributes }, label);
  button.addEventListener("click", (event) => {
    if (isDoubled(event)) return;
    if ("asked" in button.dataset) return action();
    button.dataset.asked = "";
    button.textContent = sure;
    setTimeout(() => {
      delete button.dataset.asked;
      button.textContent = label;
    }, 6000);
  });
  return button;
}

// -- before a run --------------------------------------------------------------------------------------------------------

const facts = make("div", { class: "tx-t-facts", role: "status" });
const residents = make("div", { class: "tx-t-residents" });
const startButton = make("button", { type: "button", id: "tx-t-start", class: "tx-button tx-main" }, tr("tr_start"));
const problem = make("div", { class: "tx-s-problem", role: "alert", hidden: true });
const live = make("section", { class: "tx-t-card tx-t-live", hidden: true, "aria-label": tr("tr_live") });

export const element = make(
  "div",
  { class: "tx-t-side" },
  make("section", { class: "tx-t-card", "aria-label": tr("tr_plan") }, make("h2", {}, tr("tr_plan")), facts, residents, problem, make("div", { class: "tx-s-buttons" }, startButton)),
  live,
);

/** Have `start` called by the button. */
export const onStart = (start) => startButton.addEventListener("click", start);
export const setBusy = (busy) => { startButton.disabled = busy; };

export function showProblem(text) {
  problem.textContent = text;
  problem.hidden = !text;
}

/** Say that nothing is known yet, because of `text`. */
export const showMissing = (text) => facts.replaceChildren(make("p", { class: "tx-s-quiet" }, text));

/** Say that a field is wrong, with a button that leads to it. */
export const showWrong = (text, lead) =>
  facts.replaceChildren(make("div", { class: "tx-t-amber" }, make("p", {}, text), make("button", { type: "button", class: "tx-button", click: lead }, tr("tr_show_field"))));

/** Show what a run would be. `fit` is called with parameters that suit the data better. */
export function showFacts(found, fit) {
  const rows = found.bad ? tr("tr_rows_bad", { rows: found.rows, bad: found.bad }) : String(found.rows);
  const body = [
    list([
      [found.raw ? tr("tr_texts") : tr("tr_rows"), rows],
      found.evaluation > 0 && [tr("tr_eval_rows"), String(found.evaluation)],
      [tr("tr_updates"), found.raw ? tr("tr_at_least", { count: found.updates }) : String(found.updates)],
      [tr("tr_warmup"), String(found.warmup)],
      [tr("tr_time"), found.seconds ? tr("tr_about", { value: duration(found.seconds) }) : tr("tr_time_later")],
      [tr("tr_memory"), found.memory ? tr("tr_about", { value: gigabytes(found.memory) }) : tr("tr_unknown")],
    ]),
  ];
  if (found.few) {
    const button = make("button", { type: "button", class: "tx-button", id: "tx-t-fit", click: () => fit(found.fitted) }, tr("tr_fit"));
    body.push(make("div", { class: "tx-t-amber" }, make("p", {}, tr("tr_few", { count: found.updates })), button));
  }
  if (found.notes.length) body.push(make("div", { class: "tx-s-note" }, ...found.notes.map((note) => make("p", {}, note))));
  facts.replaceChildren(...body);
}

/** Show the models in memory, each with a button that unloads it. */
export function showResidents(models, again) {
  const loaded = models.filter(({ state }) => state === "ready" || state === "answering");
  const unload = async (name) => {
    try {
      await post("/residents/unload", { name });
    } catch (error) {
      toast(error.message);
    }
    again();
  };
  const row = ({ name, facts: text }) => make("li", {}, make("span", {}, make("b", {}, name), ` ${text}`), make("button", { type: "button", class: "tx-button", "aria-label": tr("tr_unload_named", { name }), click: () => unload(name) }, tr("unload")));
  residents.replaceChildren(...(loaded.length ? [make("p", { class: "tx-s-info" }, tr("tr_in_memory")), make("ul", {}, ...loaded.map(row))] : []));
}

// -- the run that is going on --------------------------------------------------------------------------------------------

let shownRun = "";
let drawn = -1;
let logarithmic = false;
const chart = make("div", { class: "tx-t-chart" });
const status = make("div", { class: "tx-t-status" });
const heading = make("h2", {});
const bar = make("progress", { max: "1", "aria-label": tr("tr_progress") });
const buttons = make("div", { class: "tx-s-buttons" });
const logBox = make("input", { type: "checkbox", id: "tx-t-log" });
const logRow = make("div", { class: "tx-t-row tx-t-check" }, make("label", {}, logBox, make("span", {}, tr("tr_log"))));
live.append(heading, bar, status, buttons, chart, logRow);
logBox.addEventListener("change", () => {
  logarithmic = logBox.checked;
  drawn = -1;
  document.dispatchEvent(new CustomEvent("tx-training-changed"));
});

/** Show the run of that name, with its curves. */
export function choose(name) {
  if (shownRun !== name) drawn = -1;
  shownRun = name;
}

export const chosen = () => shownRun;

/** Return the query by which the server sends curves that are not drawn yet. */
export const query = () => (shownRun ? `?chart=${encodeURIComponent(shownRun)}&drawn=${drawn}&log=${logarithmic}` : "");

const phaseText = (run) =>
  ({
    queued: () => [tr("tr_queued", { position: run.position }), run.waiting.replace(/[.。]$/, "")].filter(Boolean).join(" · "),
    finished: () => tr(run.reason === "loss" ? "tr_ended_loss" : run.reason === "patience" ? "tr_ended_patience" : "tr_finished"),
    stopped: () => tr("tr_stopped"),
    failed: () => tr("tr_failed"),
    interrupted: () => tr("tr_interrupted"),
    discarded: () => tr("tr_discarded"),
    running: () =>
      ({
        starting: () => tr("tr_phase_starting"),
        weights: () => tr("tr_phase_weights", { percent: Math.round(run.progress * 100) }),
        data: () => tr("tr_phase_data"),
        training: () => tr("tr_phase_training"),
        evaluating: () => tr("tr_phase_evaluating"),
        saving: () => tr("tr_phase_saving"),
      })[run.phase]?.() ?? tr("tr_phase_training"),
  })[run.state]?.() ?? run.state;

/** Return the state of a run as a text. */
export const stateText = phaseText;

export const act = async (action, name, more = {}) => {
  try {
    const answer = await post(`/training/runs/${action}`, { name, ...more });
    document.dispatchEvent(new CustomEvent("tx-training-changed"));
    return answer;
  } catch (error) {
    toast(error.message);
    return null;
  }
};

const liveButtons = (run) => {
  if (run.state === "running") {
    const stop = make("button", { type: "button", class: "tx-button", id: "tx-t-stop", click: () => act("stop", run.name) }, tr("tr_stop"));
    return [stop, sureButton(tr("tr_discard"), tr("tr_discard_sure"), () => act("discard", run.name), { id: "tx-t-discard" })];
  }
  if (run.state === "queued") return [make("button", { type: "button", class: "tx-button", click: () => act("discard", run.name) }, tr("tr_unqueue"))];
  return [];
};

let buttonsFor = "";
let lastState = "";

const figures = (run) => {
  const ended = !["running", "queued"].includes(run.state);
  const evaluation = run.eval_loss === null ? null : [tr("tr_eval_loss"), run.best ? tr("tr_best", { loss: number(run.eval_loss), best: number(run.best[1]), update: run.best[0] }) : number(run.eval_loss)];
  return list([
    [tr("tr_update"), run.updates ? `${run.update} / ${run.updates}` : String(run.update || "—")],
    run.loss !== null && [tr("tr_loss"), tr("tr_loss_smoothed", { loss: number(run.loss), smoothed: number(run.smoothed) })],
    evaluation,
    run.learning_rate !== null && [tr("tr_rate"), number(run.learning_rate, 3)],
    run.grad_norm !== null && [tr("tr_grad_norm"), number(run.grad_norm, 3)],
    run.seconds > 0 && [tr("tr_time"), !ended && run.seconds_left !== null ? tr("tr_time_left", { past: duration(run.seconds), left: duration(run.seconds_left) }) : duration(run.seconds)],
    run.memory > 0 && [tr("tr_memory"), run.gpu_memory ? `${gigabytes(run.memory)} · GPU ${gigabytes(run.gpu_memory)}` : gigabytes(run.memory)],
    run.checkpoint > 0 && !ended && [tr("tr_checkpoint"), String(run.checkpoint)],
    run.facts.dtype && [tr("tr_computed"), [run.facts.dtype, run.facts.kernel, run.facts.on_cpu ? "CPU" : "GPU"].filter(Boolean).join(" · ")],
  ]);
};

/** Draw the chosen run, and its curves if the server sent them. */
export function showLive(run, body) {
  live.hidden = !run;
  if (!run) return;
  heading.textContent = run.name;
  const going = run.state === "running" || run.state === "queued";
  bar.hidden = !going;
  if (run.state === "running" && run.phase === "weights") bar.value = run.progress;
  else if (run.updates) bar.value = run.update / run.updates;
  else bar.removeAttribute("value");
  const text = phaseText(run);
  const error = run.error && make("div", { class: "tx-s-problem" }, run.error);
  status.replaceChildren(make("p", { class: "tx-t-phase" }, text), ...(error ? [error] : []), figures(run));
  if (lastState !== `${run.name}/${run.state}`) announce(`${run.name}: ${text}`);
  lastState = `${run.name}/${run.state}`;
  if (buttonsFor !== lastState) buttons.replaceChildren(...liveButtons(run));
  buttonsFor = lastState;
  if (body.curves !== undefined) {
    drawn = body.drawn;
    const opened = chart.querySelector("details")?.open;
    chart.replaceChildren(rendered(drawn ? body.curves : "", ""));
    if (opened) chart.querySelector("details")?.setAttribute("open", "");
  }
  logRow.hidden = drawn <= 0;
}

/** Ask the server for all runs, with the curves of the chosen one. */
export const fetchRuns = () => get(`/training/runs${query()}`);
