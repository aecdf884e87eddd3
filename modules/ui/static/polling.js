// Ask the server again and again while a view is shown: often while something is going on there, else seldom.
const LIVE = 1000;
const IDLE = 5000;

/** Return what follows the server by `ask`, which resolves to whether something is going on. It asks at once when it
 * begins, when the tab is shown again, and by `now`, which waits for the answer. */
export function polling(ask) {
  let visible = false;
  let timer = 0;

  async function now() {
    clearTimeout(timer);
    if (!visible) return;
    const going = await ask().catch(() => false); // the page says by itself that the server does not answer
    clearTimeout(timer);
    if (visible) timer = setTimeout(now, going ? LIVE : IDLE);
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) now();
  });

  return {
    now,
    begin() {
      visible = true;
      now();
    },
    end() {
      visible = false;
      clearTimeout(timer);
    },
  };
}
