// The evaluation that is going on, or the last one: its models one by one, its curves and its end.
import { get, post } from "./chat_client.js";
import { make, rendered } from "./dom.js";
import { figure, timeText } from "./perplexity_fields.js";
import { announce, toast } from "./popups.js";
import { tr } from "./texts.js";

const PHASES = {
  queued: tr("pp_queued"),
  loading: tr("pp_loading"),
  tokenizing: tr("pp_tokenizing"),
  evaluating: tr("pp_evaluating"),
  done: tr("pp_done"),
  failed: tr("pp_failed"),
  stopped: tr("pp_stopped"),
};

let chosen = "";
let drawn = -1;
let ended = ""; // the runs that had ended at the last answer
let begun = null; // {key, done, at}: when this page first saw the model that is being evaluated

const heading = make("h2", {});
const list = make("ul", { class: "tx-p-subjects" });
const chart = make("div", { class: "tx-p-chart" });
const stopButton = make("button", { type: "button", class: "tx-button", id: "tx-p-stop" }, tr("pp_stop"));
const waiting = make("p", { class: "tx-s-info", hidden: true });
export const element = make("section", { class: "tx-p-card", id: "tx-p-run", "aria-label": tr("pp_run"), hidden: true }, heading, waiting, list, make("div", { class: "tx-s-buttons" }, stopButton), chart);

/** Show the run with this id. */
export function choose(id) {
  if (chosen !== id) drawn = -1;
  chosen = id;
}

stopButton.addEventListener("click", async () => {
  stopButton.disabled = true;
  await post("/perplexity/stop", { id: chosen }).catch((error) => toast(error.message));
  stopButton.disabled = false;
});

const left = (run, subject, index) => {
  const key = `${run.id} ${index}`;
  if (begun?.key !== key) begun = { key, done: subject.done, at: Date.now() };
  const advanced = subject.done - begun.done;
  return advanced < 1 ? "" : tr("pp_left", { time: timeText(((Date.now() - begun.at) / 1000 / advanced) * (subject.total - subject.done)) });
};

const loraText = (loras) => (loras && Object.keys(loras).length ? ` + ${Object.entries(loras).map(([name, weight]) => (weight === 1 ? name : `${name}:${weight}`)).join(", ")}` : "");

const outcome = ({ result, tested, error }) => {
  const problem = error ? [make("p", { class: "tx-p-error" }, error)] : [];
  if (tested) return [make("p", { class: "tx-s-info" }, tr("pp_tested"))];
  if (!result) return problem;
  const lines = [tr("pp_result", { perplexity: figure(result.perplexity, 5), error: figure(result.error, 2), bits: figure(result.bits_per_byte) })];
  if (result.error === null) lines[0] = tr("pp_result_no_error", { perplexity: figure(result.perplexity, 5), bits: figure(result.bits_per_byte) });
  if (result.divergence) lines.push(tr("pp_divergence", { kl: figure(result.divergence.kl.mean, 3), high: figure(result.divergence.kl_99, 3), same: figure(result.divergence.same_top.mean * 100, 4) }));
  if (result.not_compared) lines.push(result.not_compared);
  return [...lines.map((line) => make("p", {}, line)), ...problem];
};

const subjectRow = (run, subject, index) => {
  const { state, done, total } = subject;
  const name = (subject.model || tr("pp_loaded")) + loraText(subject.loras);
  const status = state === "evaluating" && total ? tr("pp_windows", { done, total }) : PHASES[state];
  const live = state === "evaluating" && total > 0;
  const numbers = live ? [subject.perplexity !== null && tr("pp_so_far", { perplexity: figure(subject.perplexity) }), left(run, subject, index)].filter(Boolean).join(" · ") : "";
  return make(
    "li",
    { "data-state": state },
    make("p", {}, make("b", {}, name), make("span", { class: "tx-p-state" }, status)),
    live && make("progress", { max: total, value: done, "aria-label": tr("pp_progress", { name }) }),
    numbers && make("p", { class: "tx-s-info" }, numbers),
    ...outcome(subject),
  );
};

const draw = (run, body) => {
  element.hidden = !run;
  if (!run) return;
  heading.textContent = `${run.text.replace(/\.txt$/i, "")} · ${PHASES[run.state]}${run.ended && run.seconds ? ` · ${timeText(run.seconds)}` : ""}`;
  list.replaceChildren(...run.subjects.map((subject, index) => subjectRow(run, subject, index)));
  stopButton.parentElement.hidden = run.ended;
  if ("curves" in body) {
    drawn = body.drawn;
    const open = chart.querySelector("details[open]") !== null;
    chart.replaceChildren(...(body.curves ? [rendered(body.curves)] : []));
    if (open) chart.querySelector("details")?.setAttribute("open", "");
  }
  const queued = body.runs.filter(({ state, id }) => state === "queued" && id !== run.id).length;
  const notes = [run.waiting.replace(/[.。]$/, ""), queued > 0 && tr("pp_waiting", { count: queued })].filter(Boolean);
  waiting.hidden = notes.length === 0;
  waiting.textContent = notes.join(" · ");
};

/** Ask the server for the evaluations, and draw the one shown. Calls `finished` when one has ended; returns whether one goes on. */
export async function refresh(finished) {
  const body = await get(`/perplexity/runs?run=${encodeURIComponent(chosen)}&drawn=${drawn}`);
  const going = body.runs.find(({ state }) => state === "evaluating") ?? body.runs.find(({ ended: has }) => !has);
  const shown = body.runs.find(({ id }) => id === chosen);
  const next = going ?? body.runs.at(-1);
  if (next && (!shown || (shown.ended && going)) && next.id !== chosen) {
    choose(next.id);
    return refresh(finished);
  }
  draw(shown, body);
  const over = body.runs.filter((run) => run.ended).map(({ id }) => id).join() + body.runs.flatMap(({ subjects }) => subjects).filter(({ result }) => result).length;
  if (ended && over !== ended) {
    finished();
    if (shown?.ended) announce(`${shown.text}: ${PHASES[shown.state]}`);
  }
  ended = over;
  return Boolean(going);
}
