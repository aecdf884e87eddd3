// The page's connection to the conversations on the server: requests, and one stream of events while the tab is visible.
//
// `events` dispatches CustomEvents whose `detail` is what the server sent:
//   "open"          another conversation was opened: {id}, "" for a new one that has no messages yet
//   "conversation"  the open conversation as it is now; see modules/ui/chat/snapshot.py
//   "live"          what has been added to the answer that is being written
//   "placed"        Gradio has drawn the element that the chat is in
//   "written"       the text of the next message or its attachments have changed here
//   "connected"     the stream of events has begun, or begun again
//   "draft"         what the model has written for the user so far: {text, done, error}
//   "list"          the list of conversations has changed: ask `GET /chat/list` again

import { language, tr } from "./texts.js";

export const events = new EventTarget();

const MAX_UPLOAD_BYTES = 100_000_000; // the server ends the connection where more is sent than it reads

let current = "";
let source = null;

const emit = (name, detail) => events.dispatchEvent(new CustomEvent(name, { detail }));

/** Return the id of the open conversation, "" for a new one. */
export const currentId = () => current;

/** Open a conversation, or with "" a new one, which the server creates when the first message is sent. */
export function open(id) {
  current = id;
  emit("open", { id });
  connect();
}

const address = (path) => `${path}${path.includes("?") ? "&" : "?"}lang=${language}`;

/** Fetch, with a message in the language of the page if the server cannot be reached. */
export const reach = (path, options) =>
  fetch(path, options).catch(() => {
    throw new Error(tr("not_reached"));
  });

async function answered(response) {
  if (response.status === 401) location.reload(); // the server has been restarted, and asks for the login again
  const body = await response.json().catch(() => ({}));
  const problem = body.error?.message ?? body.error ?? response.statusText; // with a message where no route was reached
  if (!response.ok) throw Object.assign(new Error(problem), { status: response.status });
  return body;
}

/** Return the JSON that the server answers. Throws an Error with its message, and the `status`. */
export const get = async (path) => answered(await reach(address(path)));

export const post = async (path, body = {}) =>
  answered(
    await reach(address(path), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    }),
  );

/** Send the bytes of a file. */
export async function upload(path, file) {
  if (file.size > MAX_UPLOAD_BYTES) throw new Error(tr("file_too_large", { file: file.name }));
  const target = address(`${path}${path.includes("?") ? "&" : "?"}name=${encodeURIComponent(file.name)}`);
  const options = { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file };
  const response = await reach(target, options).catch(async (error) => {
    // Nothing can be read of a folder that was dropped, nor of a file that was moved or changed after it was picked.
    await file.arrayBuffer().catch(() => { throw new Error(tr("file_unreadable", { file: file.name })); });
    throw error;
  });
  return answered(response).catch((error) => {
    if (error.status === 413) error.message = tr("file_refused", { file: file.name, reason: error.message });
    throw error;
  });
}

/** The draft that this page waits for, {id, before}: kept over a reload, so that its end is not missed. */
export const keptDraft = () => JSON.parse(sessionStorage.getItem("tx-drafting"));
export const keepDraft = (draft) => sessionStorage.setItem("tx-drafting", JSON.stringify(draft));

function connect() {
  source?.close();
  source = null;
  if (document.hidden) return;
  const draft = current && keptDraft()?.id === current ? "&draft=true" : "";
  const stream = new EventSource(address(`/chat/events?id=${encodeURIComponent(current)}${draft}`));
  source = stream;
  stream.addEventListener("open", () => stream === source && emit("connected", {}));
  for (const name of ["conversation", "live", "draft", "list", "gone"]) {
    stream.addEventListener(name, (event) => stream === source && emit(name, JSON.parse(event.data)));
  }
  // EventSource reconnects by itself, but not after an error status, such as that of a server which is starting.
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => stream === source && connect(), 2000);
  });
}

// Browsers allow six connections per server: a hidden tab gives its own back, and catches up when it is shown again.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close();
    source = null;
  } else if (source === null) connect();
});
