// Runs in <head>, before Gradio's own scripts.
//
// gradio 6.31.0: the timer of a status tracker asks for a next frame as long as its event is pending, and for ever if
// it is taken away meanwhile, as the first one of every page is (the effect in js/statustracker/static/index.svelte has
// no clean-up: https://github.com/gradio-app/gradio/tree/main/js/statustracker). The browser then draws sixty frames a
// second of a page that stands still. Nothing here shows these timers, so four times a second is plenty.
(() => {
  const next = window.requestAnimationFrame.bind(window);
  const isTimer = (callback) => /^\(\)=>\{.{1,60}performance\.now\(\).{1,40}\/1e3\),\w+&&\w+\(\)\}$/.test(String(callback));
  window.requestAnimationFrame = (callback) => (isTimer(callback) ? setTimeout(callback, 250) : next(callback));
})();
