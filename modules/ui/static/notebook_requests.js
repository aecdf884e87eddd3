// What needs the parameters of the page goes through Gradio: requests, and the answers that belong to them.
import { tr } from "./texts.js";

let number = 0;
const waiting = new Map();

/** Ask the server for one of the actions of modules/ui/notebook/tab.py. Throws an Error with its message. */
export function request(body) {
  if (!window.txNotebookAsk) return Promise.reject(new Error(tr("page_starts")));
  const n = ++number;
  window.txNotebookAsk({ n, ...body });
  return new Promise((resolve, reject) => {
    waiting.set(n, { resolve, reject });
    setTimeout(() => giveUp([n]), 120000);
  });
}

/** Do not wait for answers that got lost. */
function giveUp(numbers) {
  for (const n of numbers) {
    waiting.get(n)?.reject(new Error(tr("nb_no_answer")));
    waiting.delete(n);
  }
}

/** Do not wait for any answer: a server that was restarted gives none. */
export const giveUpAll = () => giveUp([...waiting.keys()]);

document.addEventListener("tx-notebook-answer", ({ detail }) => {
  const found = waiting.get(detail.n);
  waiting.delete(detail.n);
  if (detail.error) found?.reject(Object.assign(new Error(detail.error), { load: detail.load ?? "", status: detail.status }));
  else found?.resolve(detail);
});
