// Runs when the table of files is drawn. Ticks are the browser's until the button is pressed; what fits is written into
// the rows when it is known, so that no tick is lost by it.
const names = () => [...element.querySelectorAll("input:checked")].map((box) => box.value);

const fill = () => {
  const told = document.querySelector("#tx-dl-fits [data-fits]");
  const table = element.querySelector(".tx-dl-table");
  if (!told || !table || told.dataset.commit !== table.dataset.commit) return;
  const fits = JSON.parse(told.dataset.fits);
  for (const row of table.querySelectorAll("[data-name]")) {
    const cell = row.querySelector(".tx-dl-fits");
    const [kind, words, title] = fits[row.dataset.name] || ["", "", ""];
    if (kind) cell.dataset.kind = kind;
    else delete cell.dataset.kind;
    cell.textContent = words;
    cell.title = title;
  }
};

element.addEventListener("change", () => trigger("select", { names: names() }));
watch("value", () => {
  // Gradio sets the attribute alone, which does nothing to a box that somebody has pressed before.
  for (const box of element.querySelectorAll("input")) box.checked = box.hasAttribute("checked");
  fill();
});
document.addEventListener("tx-fits", fill);
