// What was chosen for a conversation that has not begun. The server creates it with the first message, or for a character.
import { events, post } from "./chat_client.js";

const NOTHING = { mode: null, persona: null, system: null };

let chosen = { ...NOTHING };

export const choices = () => chosen;
export const choose = (values) => { chosen = { ...chosen, ...values }; };

/** Return the system message that the conversation would begin with. */
export const chosenSystem = () => chosen.system ?? document.querySelector("#tx-system")?.dataset.default ?? "";

/** Create a conversation with what was chosen and with `values`. Returns its id. */
export async function create(values = {}) {
  const known = Object.entries({ ...chosen, ...values }).filter(([, value]) => value !== null);
  return (await post("/chat/new", Object.fromEntries(known))).id;
}

events.addEventListener("open", () => { chosen = { ...NOTHING }; });
