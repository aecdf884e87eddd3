// What is typed into the boxes of messages, kept by the browser when another conversation is opened or the page reloaded.
const key = (conversation) => `tx-edits-${conversation}`;

/** Return the changed texts of a conversation that have not been saved, by the ids of their messages. */
export const keptEdits = (conversation) => JSON.parse(sessionStorage.getItem(key(conversation)) ?? "{}");

/** Keep the text of a message, or without `text` forget it. */
export function keepEdit(conversation, message, text) {
  const { [message]: _, ...kept } = keptEdits(conversation);
  if (text !== undefined) kept[message] = text;
  if (Object.keys(kept).length) sessionStorage.setItem(key(conversation), JSON.stringify(kept));
  else sessionStorage.removeItem(key(conversation));
}
