// Runs when the list of downloads is drawn. Gradio changes it in place, so focus stays where it is.
const asking = new Set();
let finished = null;

const look = () => {
  for (const job of element.querySelectorAll("[data-job]")) job.classList.toggle("tx-dl-asking", asking.has(job.dataset.job));
  const now = element.querySelector("[data-finished]")?.dataset.finished ?? null;
  // What came while this tab had never been opened is news, too.
  const news = finished === null ? element.querySelector(".tx-dl-done") : now !== finished;
  if (now !== null && news) trigger("end", {});
  if (now !== null) finished = now;
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
  else trigger("click", { act, job: job.dataset.job });
});
watch("value", look);
look();
