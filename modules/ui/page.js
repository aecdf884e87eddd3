// Runs in <head>, before the page is drawn: theme, size of the text and language, which Gradio leaves to us.
(() => {
  const page = document.currentScript.dataset;
  const language = page.language === "zh" ? "zh-CN" : "en";
  document.documentElement.lang = language;
  // Gradio names its own buttons, also for screen readers, in the language that it reads here.
  Object.defineProperty(navigator, "language", { get: () => language });
  Object.defineProperty(navigator, "languages", { get: () => [language] });

  // What the browser has kept of the look; the defaults are those of settings.yaml.
  const kept = (name) => localStorage.getItem(`tx-${name}`) || page[name];
  const isDark = () => {
    const theme = kept("theme");
    return theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  };
  const apply = () => {
    document.documentElement.dataset.theme = kept("theme");
    document.documentElement.dataset.text = kept("text");
    document.body?.classList.toggle("dark", isDark());
  };

  // Gradio sets the class by the system's scheme while it mounts; override it.
  new MutationObserver(() => {
    if (document.body && document.body.classList.contains("dark") !== isDark()) apply();
  }).observe(document.documentElement, { subtree: true, attributes: true, attributeFilter: ["class"], childList: false });
  apply();
  document.addEventListener("DOMContentLoaded", apply);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  addEventListener("storage", apply); // changed in another tab

  document.addEventListener("click", (event) => {
    if (!event.target.closest("#tx-theme")) return;
    localStorage.setItem("tx-theme", isDark() ? "light" : "dark");
    apply();
  });
  // From the Session page: {name: "theme" or "text", value}
  document.addEventListener("tx-look", ({ detail }) => {
    localStorage.setItem(`tx-${detail.name}`, detail.value);
    apply();
  });

  // A key that is held down presses a button once: it would also answer what the first press has asked.
  document.addEventListener("keydown", (event) => {
    if (!event.repeat || event.key !== "Enter" || !event.target.closest("button, a, input")) return;
    event.preventDefault();
    event.stopPropagation();
  }, true);

  // Another tab, the API or a crash may have changed what is shown. A digest of it costs both sides next to nothing; see
  // status_feed.py.
  let missed = 0;
  const pollDigest = async () => {
    const shown = document.querySelector("#tx-digest [data-digest]");
    if (document.hidden || !shown) return;
    const answer = await fetch(`/status/${page.language}`).catch(() => null);
    missed = answer ? 0 : missed + 1;
    const banner = document.querySelector("#tx-offline");
    banner.hidden = missed < 2;
    document.documentElement.style.setProperty("--tx-offline-height", `${banner.offsetHeight}px`); // 0 while it is hidden
    if (answer?.status === 401) location.reload(); // the server has been restarted, and asks for the login again
    if (answer?.ok && (await answer.text()) !== shown.dataset.digest) {
      document.dispatchEvent(new Event("tx-news"));
      document.querySelector("#tx-refresh-page")?.click();
    }
  };
  setInterval(pollDigest, 1000);
  document.addEventListener("visibilitychange", pollDigest);
})();
