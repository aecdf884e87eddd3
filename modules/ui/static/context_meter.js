// How much of the model's context the conversation takes, together with what is written.
import { attached } from "./attachments.js";
import { currentId, events, post } from "./chat_client.js";
import { make } from "./dom.js";
import { text } from "./message_box.js";
import { choices, chosenSystem } from "./new_chat.js";
import * as templateVariables from "./template_variables.js";
import { tr } from "./texts.js";
import { isAnswering } from "./transcript.js";

const COUNT_DELAY = 400;

const meterBar = make("i", {});
const meterText = make("span", {});
const meter = make("div", { id: "tx-meter", hidden: true, title: tr("context_meter") }, make("span", { class: "tx-meter-bar" }, meterBar), meterText);
export const element = meter;

let timer = 0;
let latest = 0;

export function countSoon() {
  clearTimeout(timer);
  timer = setTimeout(count, COUNT_DELAY);
}
events.addEventListener("written", countSoon);

async function count() {
  if (document.hidden || isAnswering()) return;
  const number = ++latest;
  const path = currentId() ? `/chat/${encodeURIComponent(currentId())}/count` : "/chat/count";
  const { mode, persona } = choices();
  const counts = currentId() ? {} : { mode, persona, system: chosenSystem() };
  const counted = await post(path, { ...counts, text: text(), attachments: attached(), template_kwargs: templateVariables.values() }).catch(() => null);
  if (number !== latest) return;
  meter.hidden = !counted?.context;
  if (meter.hidden) return;
  const share = counted.tokens / counted.context;
  meterBar.style.width = `${Math.min(100, share * 100)}%`;
  meter.classList.toggle("tx-full", share > 0.9);
  const format = new Intl.NumberFormat();
  meterText.textContent = tr("context_used", { used: format.format(counted.tokens), context: format.format(counted.context) });
}
