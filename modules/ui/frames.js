// Runs in <head>, before Gradio's own scripts.
//
// gradio 6.31.0: the timer of a status tracker requests the next frame while its event is pending, and forever if the
// tracker is removed meanwhile, as the first one of every page is (the effect in js/statustracker/static/index.svelte
// has no clean-up: https://github.com/gradio-app/gradio/tree/main/js/statustracker). The browser then draws a page that
// does not change sixty times a second. Nothing shows these timers, so four times a second is enough.
(() => {
  const next = window.requestAnimationFrame.bind(window);
  const isTimer = (callback) => /^\(\)=>\{.{1,60}performance\.now\(\).{1,40}\/1e3\),\w+&&\w+\(\)\}$/.test(String(callback));
  window.requestAnimationFrame = (callback) => (isTimer(callback) ? setTimeout(callback, 250) : next(callback));
})();
