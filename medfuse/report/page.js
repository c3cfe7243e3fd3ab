for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, i) => row.cells[i].textContent;
  heads.forEach((head, i) => head.firstChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => {
      const x = key(a, i), y = key(b, i), m = parseFloat(x), n = parseFloat(y);
      if ((x === "\u2013") !== (y === "\u2013")) return x === "\u2013" ? 1 : -1;
      const d = i > 1 && !isNaN(m) && !isNaN(n) ? m - n : x.localeCompare(y, undefined, {numeric: true});
      return up ? d : -d;
    };
    body.append(...[...body.rows].sort(order));
  }));
}
for (const planes of document.querySelectorAll(".card .planes")) planes.addEventListener("click", () => {
  const dialog = document.createElement("dialog"), words = document.createElement("p");
  words.textContent = planes.dataset.words;
  dialog.append(planes.cloneNode(true), words);
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
});
