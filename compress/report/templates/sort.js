"use strict";
// A click on the head of a column sorts its table, another one turns the order. Rows of class "base" stay first.
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const read = cell => {
    if (cell.dataset.value !== undefined) return { text: cell.dataset.value, rest: "" };
    const text = cell.textContent.trim().replace("\u2212", "-");
    return { text, rest: text.replace(/^[+-]?[\d.,]+/, "").replace(/\(.*/, "").trim() };
  };
  const number = text => (/^[+-]?[\d.,]/.test(text) ? parseFloat(text.replace(/,/g, "")) : NaN);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const rows = [...body.rows].map(row => ({ row, ...read(row.cells[column]) }));
      const filled = rows.filter(each => /\d/.test(each.text));
      const numeric = filled.length && filled.every(each => each.rest === filled[0].rest && !isNaN(number(each.text)));
      const key = each => (numeric ? number(each.text) : each.text);
      const missing = each => (numeric ? isNaN(key(each)) : each.text === "" || each.text === "\u2013");
      rows.sort((a, b) => {
        const base = b.row.classList.contains("base") - a.row.classList.contains("base");
        const order = () => (numeric ? key(a) - key(b) : key(a).localeCompare(key(b), "en", { numeric: true }));
        return base || missing(a) - missing(b) || (missing(a) ? 0 : sign * order());
      });
      body.append(...rows.map(each => each.row));
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    });
  });
}
