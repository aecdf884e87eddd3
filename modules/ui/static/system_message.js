// The field of the system message, which belongs to the conversation. modules/ui/chat/tab.py draws it among the parameters.
import { currentId, events, post } from "./chat_client.js";
import { countSoon } from "./context_meter.js";
import { report } from "./message_box.js";
import { choose, chosenSystem } from "./new_chat.js";
import { change, conversation } from "./transcript.js";

const SAVE_DELAY = 600;

const field = () => document.querySelector("#tx-system");
let timer = 0;
let unsaved = null; // what was typed, and in which conversation: {id, system}

async function save() {
  clearTimeout(timer);
  if (!unsaved) return;
  const { id, system } = unsaved;
  unsaved = null;
  if (!id) choose({ system }); // sent with the first message
  else if (!(await stored(id, system))) unsaved ??= { id, system };
  countSoon();
}

/** Store the field of a conversation. Returns whether the server has it. */
async function stored(id, system) {
  if (id === currentId()) {
    const answer = await change("system", { system, rev: undefined });
    if (answer || id === currentId()) return Boolean(answer);
  }
  return post(`/chat/${encodeURIComponent(id)}/system`, { system }).then(() => true, (error) => report(error.message));
}
events.addEventListener("connected", save); // the server is there again

document.addEventListener("input", (event) => {
  if (event.target.id !== "tx-system") return;
  unsaved = { id: currentId(), system: event.target.value };
  clearTimeout(timer);
  timer = setTimeout(save, SAVE_DELAY);
});
// Before what is clicked next sends a message, or opens another conversation.
document.addEventListener("change", (event) => event.target.id === "tx-system" && save());

const show = () => {
  if (field() && field() !== document.activeElement && (!unsaved || unsaved.id !== currentId())) field().value = currentId() ? conversation().system : chosenSystem();
};
events.addEventListener("shown", show);
new MutationObserver(() => field() && !field().dataset.filled && (field().dataset.filled = "1", show())).observe(document.body, { subtree: true, childList: true });
