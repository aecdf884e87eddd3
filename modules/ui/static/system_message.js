// The field of the system message, which belongs to the conversation. modules/ui/chat/tab.py draws it among the parameters.
import { currentId, events, post } from "./chat_client.js";
import { countSoon, report } from "./composer.js";
import { choose, chosenSystem } from "./new_chat.js";
import { conversation } from "./transcript.js";

const SAVE_DELAY = 600;

const field = () => document.querySelector("#tx-system");
let timer = 0;

const save = (text) => {
  if (currentId()) post(`/chat/${encodeURIComponent(currentId())}/system`, { system: text }).then(countSoon, (error) => report(error.message));
  else {
    choose({ system: text }); // sent with the first message
    countSoon();
  }
};

document.addEventListener("input", (event) => {
  if (event.target.id !== "tx-system") return;
  clearTimeout(timer);
  timer = setTimeout(save, SAVE_DELAY, event.target.value);
});

const show = () => {
  if (field() && field() !== document.activeElement) field().value = currentId() ? conversation().system : chosenSystem();
};
events.addEventListener("shown", show);
new MutationObserver(() => field() && !field().dataset.filled && (field().dataset.filled = "1", show())).observe(document.body, { subtree: true, childList: true });
