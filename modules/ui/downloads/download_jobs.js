// Runs when the list of downloads is drawn. Gradio updates it in place, so the focus is kept.
const asking = new Set();
let finished = null;

const update = () => {
  for (const job of element.querySelectorAll("[data-job]")) job.classList.toggle("tx-dl-asking", asking.has(job.dataset.job));
  const current = element.querySelector("[data-finished]")?.dataset.finished ?? null;
  // Downloads that finished before this tab was first opened count, too.
  const ended = finished === null ? element.querySelector(".tx-dl-done") : current !== finished;
  if (current !== null && ended) trigger("end", {});
  if (current !== null) finished = current;
};

element.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-act]");
  const job = pressed?.closest("[data-job]");
  if (!job) return;
  const { act } = pressed.dataset;
  if (act === "ask") asking.add(job.dataset.job);
  else asking.delete(job.dataset.job);
  job.classList.toggle("tx-dl-asking", act === "ask");
  if (act === "ask") job.querySelector("[data-act=unask]").focus();
  else if (act === "unask") job.querySelector("[data-act=ask]").focus();
  else if (act === "load") trigger("load_model", { job: job.dataset.job });
  else trigger("click", { act, job: job.dataset.job });
});
watch("value", update);
update();
