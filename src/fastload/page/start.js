// Begins, once everything above is there.

const THEMES = ["auto", "light", "dark"];

function readyTheme() {
  const button = by("theme");
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length];
    document.documentElement.dataset.theme = next;
    button.textContent = `Theme: ${next}`;
  });
}

readyTheme();
readyDetail();
showSummary();
showTable();
showDifferences();
showTree();
showCharts();
const lists = [table.list, tree.list, ...(found.list ? [found.list] : [])];
heights(lists);
phone.addEventListener("change", () => heights(lists));
document.body.dataset.ready = performance.now().toFixed(0); // milliseconds since the page was asked for
